//! `[sandbox]`, and where a function may connect to.

use tramline_host::{Egress, Layer, SandboxConfig};

use super::reader::{Section, hint};

/// Numbers of users that are certainly not root's and not "nobody in particular".
const UID_MIN: u64 = 1;
const UID_MAX: u64 = 4_294_967_293;

pub(super) fn read_sandbox(section: &Section<'_>) -> SandboxConfig {
    let mut require = Vec::new();
    let known = Layer::ALL.map(Layer::name);
    for name in section.texts("require").unwrap_or_default() {
        match Layer::ALL.into_iter().find(|layer| layer.name() == name) {
            Some(layer) => require.push(layer),
            None => section.refuse(
                "require",
                &format!(
                    "{name:?} is no layer of the sandbox{}; layers are {}",
                    hint(&name, known),
                    known.join(", ")
                ),
            ),
        }
    }
    let uid = section.number("uid", UID_MIN..=UID_MAX);
    section.finish();
    SandboxConfig {
        require,
        uid: uid.and_then(|uid| u32::try_from(uid).ok()),
    }
}

pub(super) fn read_egress(block: &Section<'_>) -> Option<Egress> {
    const KEY: &str = "egress";
    if !block.is_list(KEY) {
        let named = [
            ("open", EgressName::Open),
            ("all", EgressName::All),
            ("none", EgressName::None),
        ];
        return block.choice(KEY, &named).map(EgressName::egress);
    }
    let hosts = block.texts(KEY)?;
    for host in &hosts {
        if let Err(reason) = Egress::check_host(host) {
            block.refuse(KEY, &format!("egress cannot name {host:?}: {reason}"));
        }
    }
    Some(match hosts.is_empty() {
        true => Egress::None,
        false => Egress::Only(hosts),
    })
}

/// `secrets`: names of the project's variables, for a function that is to have no others.
pub(super) fn read_secrets(block: &Section<'_>) -> Option<Vec<String>> {
    const KEY: &str = "secrets";
    let names = block.texts(KEY)?;
    for name in &names {
        if name.starts_with("SUPABASE_") || name == "CRON_SECRET" {
            let message = format!(
                "{name} is the platform's, which every function gets; withhold_service_role_key keeps its keys away"
            );
            block.refuse(KEY, &message);
        } else if !is_variable(name) {
            block.refuse(
                KEY,
                &format!("{name:?} is no name of a variable: letters, digits and _"),
            );
        }
    }
    Some(names)
}

fn is_variable(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(is_part) && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[derive(Clone, Copy)]
enum EgressName {
    Open,
    All,
    None,
}

impl EgressName {
    fn egress(self) -> Egress {
        match self {
            EgressName::Open => Egress::Open,
            EgressName::All => Egress::All,
            EgressName::None => Egress::None,
        }
    }
}
