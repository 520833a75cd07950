//! What a project folder and its settings come to: functions with their environment and guards, keys, warnings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tramline_gateway::{BodySchema, Cors, EdgeRules, Edges, Guard, GuardAuth, Secret, WebhookRule};
use tramline_host::{Deployed, FunctionLimits, FunctionSpec, Policy};
use tramline_supabase::config::EdgePolicy;
use tramline_supabase::environment::{EnvironmentInput, of_functions};
use tramline_supabase::project::FunctionSource;
use tramline_supabase::{LocalKeys, Project};

use crate::config::{Config, FunctionSettings, SchemaSettings, WebhookSettings, hint};
use crate::exit::{Done, Exit, Failure, OrExit as _};
use crate::node::schemas;

/// With these a function may do everything; they are withheld together.
const POWERFUL: [&str; 4] = [
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_SECRET_KEYS",
    "SUPABASE_JWKS",
    "SUPABASE_DB_URL",
];

/// A project, read and checked; nothing is started.
#[derive(Clone)]
pub struct Setup {
    pub project: Project,
    pub config: Config,
    pub keys: LocalKeys,
    /// What the bodies of functions must be like.
    pub schemas: BTreeMap<String, Arc<BodySchema>>,
    /// The function that a debugger may attach to.
    pub inspect: Option<String>,
    /// Functions that are served as deployed, not from the folder.
    pub deployed: BTreeMap<String, Deployed>,
    /// Things that were understood but are probably not meant, one line each.
    pub warnings: Vec<String>,
}

/// What is known of the functions once the addresses are.
pub struct FunctionPlan {
    pub specs: Vec<FunctionSpec>,
    pub guards: BTreeMap<String, Guard>,
    /// How signed webhooks are verified.
    pub webhooks: BTreeMap<String, WebhookRule>,
    /// What cron functions compare with.
    pub cron_secret: String,
    pub warnings: Vec<String>,
}

impl Setup {
    /// Reads `supabase/`, `tramline/` and `tramline.toml`.
    pub fn read(dir: &Path, env: &BTreeMap<String, String>) -> Done<Self> {
        let config = Config::load(dir, env)?;
        let project = Project::discover(dir, env).or_exit(Exit::Usage)?;
        let keys = LocalKeys::from_config(&project.config.auth).or_exit(Exit::Usage)?;
        refuse_unknown_functions(&project, &config)?;
        let schemas = schemas::read(dir, &config)?;
        let warnings = project.warnings.iter().map(ToString::to_string);
        let warnings = warnings.chain(crate::deno::pin_problem(dir, env)).collect();
        Ok(Self {
            project,
            config,
            keys,
            schemas,
            inspect: None,
            deployed: BTreeMap::new(),
            warnings,
        })
    }

    /// The functions as host and gateway need them.
    pub fn functions(&self, gateway_url: &str, db_url: &str, cron_secret: &str) -> FunctionPlan {
        let input = EnvironmentInput {
            gateway_url,
            db_url,
            keys: &self.keys,
            cron_secret,
        };
        let environment = of_functions(&self.project, &input);
        let mut warnings: Vec<String> = environment.warnings.iter().map(ToString::to_string).collect();
        let (mut specs, mut guards) = (Vec::new(), BTreeMap::new());
        let mut webhooks = BTreeMap::new();
        for source in &self.project.functions {
            let settings = self
                .config
                .functions
                .get(&source.name)
                .cloned()
                .unwrap_or_default();
            let own = environment.of(source, settings.secrets.as_deref(), &self.project, &input);
            warnings.extend(own.warnings.iter().map(ToString::to_string));
            let mut vars = own.vars;
            if settings.withhold_service_role_key {
                vars.retain(|name, _| !POWERFUL.contains(&name.as_str()));
            }
            let mut guard = guard(source, &settings);
            if guard.auth == GuardAuth::PassThrough {
                warnings.push(format!(
                    "function {0}: verify_jwt = false lets every request through; it must check for itself. Say so in tramline.toml: [functions.{0}] auth = \"cron\", \"public\" or \"none\"",
                    source.name
                ));
            }
            if let Some(webhook) = &settings.webhook {
                let rule = webhook_rule(webhook, &vars, |name| {
                    warnings.push(format!(
                        "function {}: {name} is not set; set the secret of its webhooks in supabase/functions/.env or [edge_runtime.secrets]",
                        source.name
                    ));
                });
                if self.deployed.contains_key(&source.name) && !rule.is_usable() {
                    // one function that cannot be guarded as deployed must not hold up the others
                    warnings.push(format!(
                        "function {}: closed until the secrets of its webhooks are set",
                        source.name
                    ));
                    guard.auth = GuardAuth::Jwt;
                }
                webhooks.insert(source.name.clone(), rule);
            }
            guards.insert(source.name.clone(), guard);
            specs.push(FunctionSpec {
                name: source.name.clone(),
                entrypoint: source.entrypoint.clone(),
                import_map: source.import_map.clone().or_else(|| source.package_json.clone()),
                inspect: (self.inspect.as_ref() == Some(&source.name))
                    .then_some(self.project.config.edge_runtime.inspector_port),
                static_files: source.static_files.clone(),
                broken: source.broken(&vars).or_else(|| without(&own.missing, &settings)),
                deployed: self.deployed.get(&source.name).cloned(),
                env: vars,
                egress: settings.egress.clone().unwrap_or_default(),
                limits: FunctionLimits {
                    wall_ms: settings.timeout_seconds.map(|seconds| seconds * 1_000),
                    ..settings.limits.clone()
                },
                policy: settings
                    .policy
                    .unwrap_or(policy(self.project.config.edge_runtime.policy)),
            });
        }
        FunctionPlan {
            specs,
            guards,
            webhooks,
            cron_secret: environment.cron_secret().to_owned(),
            warnings,
        }
    }

    /// The CORS of functions that have their own.
    pub fn function_cors(&self) -> BTreeMap<String, Cors> {
        let functions = self.config.functions.iter();
        functions
            .filter_map(|(name, settings)| Some((name.clone(), settings.cors.as_ref()?.rules())))
            .collect()
    }

    /// The files that [`Self::read`] has read beside the project's and `tramline.toml`.
    pub fn schema_files(&self) -> BTreeSet<PathBuf> {
        let named = self
            .config
            .functions
            .values()
            .filter_map(|settings| settings.schema.as_ref());
        named
            .flat_map(SchemaSettings::files)
            .map(|file| self.project.dir.join(file))
            .collect()
    }

    /// What the gateway does with requests of functions beside passing them on.
    pub fn edges(&self) -> Edges {
        let functions = self.config.functions.iter();
        functions
            .map(|(name, settings)| {
                let rules = EdgeRules {
                    schema: self.schemas.get(name).cloned(),
                    keep_answers: settings.idempotency.keep_answers,
                };
                (name.clone(), rules)
            })
            .collect()
    }

    /// `--inspect`: lets a debugger attach to this function, which must exist.
    pub fn inspect(&mut self, function: &str) -> Done {
        let names = || self.project.functions.iter().map(|source| source.name.as_str());
        if !names().any(|name| name == function) {
            let near = hint(function, names());
            return Err(Failure::new(
                Exit::Usage,
                format!("failed to inspect {function:?}: there is no function of this name{near}"),
            ));
        }
        self.inspect = Some(function.to_owned());
        Ok(())
    }

    /// `--strict`: every function that anybody may call is declared so.
    pub fn refuse_undeclared(&self) -> Done {
        let mut failure = Failure::new(Exit::Usage, "failed to start with --strict: functions are open to everybody without a word about it")
            .hint("Declare each in tramline.toml: [functions.<name>] auth = \"jwt\", \"cron\", \"public\" or \"none\", the last two with a reason.");
        let declared = |name: &str| {
            self.config
                .functions
                .get(name)
                .is_some_and(|settings| settings.auth.is_some())
        };
        let open = self
            .project
            .functions
            .iter()
            .filter(|source| !source.verify_jwt && !declared(&source.name));
        failure.details = open
            .map(|source| format!("{}: verify_jwt = false in supabase/config.toml", source.name))
            .collect();
        if failure.details.is_empty() {
            Ok(())
        } else {
            Err(failure)
        }
    }
}

/// Why a function is not started whose `secrets` have no values.
fn without(missing: &[String], settings: &FunctionSettings) -> Option<String> {
    (!missing.is_empty()).then(|| {
        format!(
            "missing environment: {} ({}: secrets) has no value; set it in supabase/functions/.env",
            missing.join(", "),
            settings.place
        )
    })
}

fn guard(source: &FunctionSource, settings: &FunctionSettings) -> Guard {
    let by_config = if source.verify_jwt {
        GuardAuth::Jwt
    } else {
        GuardAuth::PassThrough
    };
    Guard {
        auth: settings.auth.unwrap_or(by_config),
        preflight: settings.preflight,
    }
}

fn webhook_rule(
    settings: &WebhookSettings,
    vars: &BTreeMap<String, String>,
    mut missing: impl FnMut(&str),
) -> WebhookRule {
    let mut secrets = Vec::new();
    for name in &settings.secrets {
        match vars.get(name).filter(|value| !value.is_empty()) {
            Some(value) => secrets.push(Secret::new(value.clone())),
            None => missing(name),
        }
    }
    WebhookRule {
        scheme: settings.scheme,
        secrets,
        tolerance: settings.tolerance,
    }
}

fn policy(policy: EdgePolicy) -> Policy {
    match policy {
        EdgePolicy::PerWorker => Policy::PerWorker,
        EdgePolicy::PerRequest => Policy::PerRequest,
        EdgePolicy::Oneshot => Policy::Oneshot,
    }
}

/// A guard for a function that does not exist guards nothing: its name is misspelt.
fn refuse_unknown_functions(project: &Project, config: &Config) -> Done {
    let exists = |name: &str| {
        // a disabled function keeps its block
        project.functions.iter().any(|source| source.name == name)
            || project.config.functions.contains_key(name)
    };
    let mut failure = Failure::new(Exit::Usage, "failed to use tramline.toml");
    for (name, settings) in config.functions.iter().filter(|(name, _)| !exists(name)) {
        let near = hint(name, project.functions.iter().map(|source| source.name.as_str()));
        failure
            .details
            .push(format!("{}: there is no function {name}{near}", settings.place));
    }
    if failure.details.is_empty() {
        Ok(())
    } else {
        Err(failure)
    }
}
