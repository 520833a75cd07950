//! Which ports a `dev` takes: flags, else the environment, else `supabase/config.toml`.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use tramline_supabase::ProjectConfig;

use crate::cli::DevArgs;
use crate::exit::{Done, Exit, Failure};

/// Where free ports are taken: below the range from which the system gives outgoing connections their ports. Gateway and Postgres
/// bind theirs seconds later, the latter again whenever it is started anew, and any connection could have got it meanwhile.
const FREE: Range<u16> = 20_000..32_000;
/// Where so many are taken, nearly all are; then any will do.
const FREE_ATTEMPTS: usize = 100;

/// The ports of this start.
pub struct Ports {
    pub api: u16,
    pub db: u16,
}

/// Chooses them and refuses what is taken, before anything slow begins.
pub fn choose(args: &DevArgs, config: &ProjectConfig) -> Done<Ports> {
    let api = args.port.unwrap_or(config.api.port);
    let db = args.db_port.unwrap_or(config.db.port);
    if api == db && api != 0 {
        return Err(Failure::new(
            Exit::Usage,
            format!("failed to use port {api}: gateway and Postgres cannot share it"),
        ));
    }
    // both are held while they are chosen, so that 0 gives two different ones
    let (api_held, db_held) = (
        hold(api, "gateway", "--port", "[api].port")?,
        hold(db, "Postgres", "--db-port", "[db].port")?,
    );
    Ok(Ports {
        api: number(&api_held)?,
        db: number(&db_held)?,
    })
}

fn hold(port: u16, whose: &str, flag: &str, setting: &str) -> Done<TcpListener> {
    if port == 0
        && let Some(held) = hold_free()
    {
        return Ok(held);
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            Failure::new(Exit::Refused, format!("failed to take port {port} for the {whose}: another program uses it"))
                .hint(format!("Stop that program, or choose another port with {flag} or {setting} in supabase/config.toml; {flag} 0 takes a free one."))
        }
        _ => Failure::new(Exit::Usage, format!("failed to take port {port} for the {whose}: {error}")),
    })
}

fn hold_free() -> Option<TcpListener> {
    let mut tries = (0..FREE_ATTEMPTS).map(|_| rand::random_range(FREE));
    tries.find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
}

fn number(held: &TcpListener) -> Done<u16> {
    held.local_addr()
        .map(|address| address.port())
        .map_err(|error| Failure::new(Exit::Failure, format!("failed to read a port's number: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_is_none_that_an_outgoing_connection_may_get() {
        let held: Vec<TcpListener> = (0..20).map(|_| hold(0, "gateway", "", "").unwrap()).collect();
        for listener in &held {
            let port = number(listener).unwrap();
            assert!(FREE.contains(&port), "{port}");
        }
    }
}
