//! Publishes what lies under `tramline/`: workflows, calendars and schedules. One that cannot work is told with its places; the
//! others go on.

use jiff::Timestamp;
use tramline_core::Millis;
use tramline_core::definition::Problem;
use tramline_core::schedule::read_calendar;
use tramline_gateway::control::{Actor, Control as _, ControlError};
use tramline_store::schedules::{self, NewSchedule, ScheduleRow};
use tramline_store::{Db, StoreError, api, calendars, limits, retention};
use tramline_supabase::Project;
use tramline_supabase::project::DocumentFile;

use super::control::NodeControl;
use super::project::Setup;
use super::schedules::Known;
use crate::config::{Config, RetentionSettings};
use crate::exit::{Done, Exit, Failure, OrExit as _};

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
    /// All schedules of the database, with their next due times.
    pub schedules: Vec<(ScheduleRow, Option<Millis>)>,
    pub refusals: Vec<String>,
}

impl Report {
    fn refuse(&mut self, place: &str, problems: &[Problem]) {
        self.refusals.extend(
            problems
                .iter()
                .map(|p| format!("{place}: {}: {}", p.path, p.message)),
        );
    }
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

/// Stores what `tramline.toml` promises the runs of functions; a function without promises loses those it had.
pub async fn store_policies(db: &Db, setup: &Setup) -> Done {
    let known = api::list_functions(db).await.or_exit(Exit::Unavailable)?;
    let policies: Vec<api::FunctionPolicy> = known
        .into_iter()
        .filter(|function| function.kind == "edge")
        .map(|function| {
            let settings = setup.config.functions.get(&function.name);
            api::FunctionPolicy {
                retry: settings.and_then(|settings| settings.retry.clone()),
                retention_ms: settings.and_then(|settings| settings.idempotency.retention_ms),
                name: function.name,
            }
        })
        .collect();
    api::set_function_policies(db, &policies)
        .await
        .or_exit(Exit::Unavailable)
}

async fn store_schedules(db: &Db, project: &Project, report: &mut Report) -> Done {
    for file in &project.calendars {
        let place = project.display_path(&file.path);
        match read_calendar(&file.document, Some(&file.name)) {
            Ok((name, entries, zone)) => {
                let source = format!("file:{place}");
                calendars::store(db, &name, &entries, zone.as_deref(), &source)
                    .await
                    .or_exit(Exit::Unavailable)?;
            }
            Err(problems) => report.refuse(&place, &problems),
        }
    }
    let known = Known::read(db).await.or_exit(Exit::Unavailable)?;
    for file in &project.schedules {
        let place = project.display_path(&file.path);
        match known.check(&file.document, &file.name) {
            Ok(document) => {
                let mut schedule = NewSchedule::of(document, &format!("file:{place}"));
                // a person's pause lasts over a restart; what the file says about it holds when it says so
                schedule.paused = schedule.paused.filter(|paused| *paused);
                match schedules::store(db, &schedule).await {
                    // such as a queue that its runs cannot wait in
                    Err(StoreError::Refused { message, detail, .. }) => {
                        let path = detail.as_ref().and_then(|d| d["path"].as_str());
                        let path = path.map(|path| format!("{path}: ")).unwrap_or_default();
                        report.refusals.push(format!("{place}: {path}{message}"))
                    }
                    stored => {
                        stored.or_exit(Exit::Unavailable)?;
                    }
                }
            }
            Err(problems) => report.refuse(&place, &problems),
        }
    }
    // A file that is gone takes its schedule along; schedules made by SQL or the API stay.
    let names = |files: &[DocumentFile]| files.iter().map(|file| file.name.clone()).collect::<Vec<_>>();
    schedules::retain(db, "file:", &names(&project.schedules))
        .await
        .or_exit(Exit::Unavailable)?;
    calendars::retain(db, "file:", &names(&project.calendars))
        .await
        .or_exit(Exit::Unavailable)?;
    let now = Timestamp::now().as_millisecond();
    for row in schedules::list(db, None).await.or_exit(Exit::Unavailable)? {
        let next = known.next_due(&row.rule.spec, now).filter(|_| !row.rule.paused);
        report.schedules.push((row, next));
    }
    Ok(())
}

/// Where retention comes from that the project's settings name.
const RETENTION_SOURCE: &str = "tramline.toml";

/// Sets how long runs are kept, as the settings say; what they said before and do not say any more goes back to the default.
pub async fn set_retention(db: &Db, settings: &RetentionSettings) -> Done {
    let mut all: Vec<(String, u64)> = settings.targets.clone();
    all.extend(
        settings
            .default
            .map(|seconds| (retention::DEFAULT_TARGET.to_owned(), seconds)),
    );
    for (target, seconds) in &all {
        let seconds = i64::try_from(*seconds).unwrap_or(i64::MAX);
        retention::set(db, target, Some(seconds), RETENTION_SOURCE)
            .await
            .or_exit(Exit::Unavailable)?;
    }
    let targets: Vec<String> = all.into_iter().map(|(target, _)| target).collect();
    retention::retain(db, RETENTION_SOURCE, &targets)
        .await
        .or_exit(Exit::Unavailable)
}
