//! Publishes what lies under `tramline/`: workflows and schedules. One that cannot work is told with its places; the
//! others go on.

use serde_json::json;
use tramline_core::cron::CronSchedule;
use tramline_gateway::control::{Actor, Control as _, ControlError};
use tramline_store::schedules::{self, NewSchedule};
use tramline_store::{Db, StoreError, api, limits};
use tramline_supabase::Project;
use tramline_supabase::project::ScheduleFile;

use super::control::NodeControl;
use crate::config::Config;
use crate::exit::{Done, Exit, Failure, OrExit as _, chain};

/// Declares the limits of the project's functions; those without one have none from now on.
pub async fn limit_functions(db: &Db, project: &Project, config: &Config, report: &mut Report) -> Done {
    for function in &project.functions {
        let settings = config.functions.get(&function.name);
        let limit = settings.and_then(|settings| settings.limit.as_ref());
        match limits::set_target(db, &function.name, limit).await {
            Err(StoreError::Refused { message, .. }) => {
                let place = settings.map_or("tramline.toml", |settings| settings.place.as_str());
                report.refusals.push(format!("{place}: limit: {message}"));
            }
            stored => drop(stored.or_exit(Exit::Unavailable)?),
        }
    }
    Ok(())
}

/// What was published, for the start's summary.
#[derive(Debug, Default)]
pub struct Report {
    /// Name, version, required inputs.
    pub workflows: Vec<(String, i64, Vec<String>)>,
    pub refusals: Vec<String>,
}

/// Publishes the project's workflows, then stores its schedules.
pub async fn publish(control: &NodeControl, db: &Db, project: &Project) -> Done<Report> {
    let mut report = Report::default();
    for file in &project.workflows {
        let place = project.display_path(&file.path);
        let actor = Actor {
            role: format!("file:{place}"),
            subject: None,
        };
        match control.publish_workflow(file.definition.clone(), actor).await {
            Ok(published) => {
                let workflow = published.workflow;
                report
                    .workflows
                    .push((workflow.name, workflow.version, workflow.required_inputs));
            }
            Err(ControlError::InvalidInput { problems, .. }) => {
                report.refusals.extend(
                    problems
                        .iter()
                        .map(|p| format!("{place}: {}: {}", p.path, p.message)),
                );
            }
            Err(error) => {
                return Err(Failure::new(
                    Exit::Unavailable,
                    format!("failed to publish {place}: {error:?}"),
                ));
            }
        }
    }
    store_schedules(db, project, &mut report).await?;
    Ok(report)
}

async fn store_schedules(db: &Db, project: &Project, report: &mut Report) -> Done {
    let mut targets: Vec<String> = api::list_functions(db)
        .await
        .or_exit(Exit::Unavailable)?
        .into_iter()
        .map(|row| row.name)
        .collect();
    targets.extend(
        api::list_workflows(db)
            .await
            .or_exit(Exit::Unavailable)?
            .into_iter()
            .map(|row| row.name),
    );
    for file in &project.schedules {
        let place = project.display_path(&file.path);
        if let Err(reason) = check(file, &targets) {
            report.refusals.push(format!("{place}: {reason}"));
            continue;
        }
        let schedule = NewSchedule {
            name: file.name.clone(),
            cron: file.cron.clone(),
            timezone: Some(file.timezone.clone()),
            target: file.target.clone(),
            input: Some(if file.input.is_null() {
                json!({})
            } else {
                file.input.clone()
            }),
            queue: None,
            priority: None,
            // a person's pause lasts over a restart; what the file says about it holds when it says so
            paused: (!file.enabled).then_some(true),
            source: format!("file:{place}"),
        };
        match schedules::store(db, &schedule).await {
            Err(StoreError::Refused { message, .. }) => report.refusals.push(format!("{place}: {message}")),
            stored => drop(stored.or_exit(Exit::Unavailable)?),
        }
    }
    // A file that is gone takes its schedule along; schedules made by SQL or the API stay.
    let names: Vec<String> = project.schedules.iter().map(|file| file.name.clone()).collect();
    schedules::retain(db, "file:", &names)
        .await
        .or_exit(Exit::Unavailable)?;
    Ok(())
}

fn check(file: &ScheduleFile, targets: &[String]) -> Result<(), String> {
    CronSchedule::parse(&file.cron, &file.timezone).map_err(|error| format!("cannot {}", chain(&error)))?;
    if targets.contains(&file.target) {
        return Ok(());
    }
    Err(format!(
        "target: there is no function or workflow {:?}",
        file.target
    ))
}
