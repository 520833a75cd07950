//! What is measured in which order.

use anyhow::{Context as _, Result};

use crate::engine::EngineBench;
use crate::figures::Figures;
use crate::peers::{Installed, PEERS};
use crate::postgres::Postgres;
use crate::sizes::Sizes;
use crate::{Place, Wanted, say};
use crate::{
    cold_start, connections, deploys, edits, engine, function_jobs, gateway, idle, instances, lists,
    many_functions, memory, single_rows, streams, tokens,
};

/// Everything that can be measured.
pub struct Suites<'a> {
    pub place: &'a Place,
    pub sizes: Sizes,
    pub wanted: Wanted<'a>,
    pub repeats: usize,
}

impl Suites<'_> {
    /// What needs the server that both sides use.
    pub async fn on_postgres(&self, statements: bool, figures: &mut Figures) -> Result<()> {
        let groups = [
            engine::NAMES,
            single_rows::NAMES,
            function_jobs::NAMES,
            idle::NAMES,
            connections::NAMES,
            memory::NAMES,
            lists::NAMES,
        ];
        if !groups.iter().any(|names| self.wanted.any(names)) {
            return Ok(());
        }
        let postgres = Postgres::start(&self.place.target, statements).await?;
        let measured = self.measure_on(&postgres, figures).await;
        postgres.stop().await?;
        measured
    }

    async fn measure_on(&self, postgres: &Postgres, figures: &mut Figures) -> Result<()> {
        let Self {
            place,
            sizes,
            wanted,
            repeats,
        } = *self;
        if wanted.any(engine::NAMES) {
            self.engine(postgres, figures).await?;
        }
        if wanted.any(single_rows::NAMES) {
            let measured = single_rows::measure(place, postgres, sizes, wanted, repeats, figures).await;
            measured.context("measure rows one by one")?;
        }
        if wanted.any(function_jobs::NAMES) {
            let measured = function_jobs::measure(place, postgres, sizes, wanted, repeats, figures).await;
            measured.context("measure jobs through functions")?;
        }
        if wanted.any(idle::NAMES) {
            let measured = idle::measure(place, postgres, sizes, wanted, repeats, figures).await;
            measured.context("measure an idle node")?;
        }
        if wanted.any(connections::NAMES) {
            let measured = connections::measure(place, postgres, figures).await;
            measured.context("measure idle connections")?;
        }
        if wanted.any(memory::NAMES) {
            memory::measure(postgres, sizes, wanted, figures).await?;
        }
        if wanted.any(lists::NAMES) {
            let measured = lists::measure(postgres, sizes.listed_runs, wanted, figures).await;
            measured.context("measure lists")?;
        }
        Ok(())
    }

    /// What needs functions or nothing at all.
    pub async fn on_host(&self, figures: &mut Figures) -> Result<()> {
        let Self {
            place,
            sizes,
            wanted,
            repeats,
        } = *self;
        if wanted.any(cold_start::NAMES) {
            let measured = cold_start::measure(place, sizes, wanted, repeats, figures).await;
            measured.context("measure cold starts")?;
        }
        if wanted.any(edits::NAMES) {
            let measured = edits::measure(place, sizes, wanted, repeats, figures).await;
            measured.context("measure edits")?;
        }
        if wanted.any(instances::NAMES) {
            let measured = instances::measure(place, sizes, wanted, repeats, figures).await;
            measured.context("measure instances")?;
        }
        if wanted.any(many_functions::NAMES) {
            let measured = many_functions::measure(place, wanted, repeats, figures).await;
            measured.context("measure a host of many functions")?;
        }
        if wanted.any(gateway::NAMES) {
            let measured = gateway::measure(place, sizes, wanted, repeats, figures).await;
            measured.context("measure the gateway")?;
        }
        if wanted.any(deploys::NAMES) {
            let measured = deploys::measure(place, wanted, repeats, figures).await;
            measured.context("measure deploys")?;
        }
        if wanted.any(streams::NAMES) {
            let measured = streams::measure(place, repeats, figures).await;
            measured.context("measure streams")?;
        }
        if wanted.any(tokens::NAMES) {
            let measured = tokens::measure(sizes, wanted, repeats, figures).await;
            measured.context("measure the verification of tokens")?;
        }
        Ok(())
    }

    /// The engine and its peers, in turns.
    async fn engine(&self, postgres: &Postgres, figures: &mut Figures) -> Result<()> {
        let peers = self.install_peers(figures).await;
        let bench = EngineBench {
            postgres,
            sizes: self.sizes,
            wanted: self.wanted,
        };
        for turn in 1..=self.repeats {
            say(&format!("turn {turn} of {}: tramline's engine", self.repeats));
            bench.measure(figures).await?;
            for peer in &peers {
                say(&format!("turn {turn} of {}: {}", self.repeats, peer.label));
                peer.measure(postgres, self.sizes, figures).await?;
            }
        }
        Ok(())
    }

    /// The peers that have a figure to be measured beside. One that cannot be installed here is left out, and it is told.
    async fn install_peers(&self, figures: &mut Figures) -> Vec<Installed> {
        let mut installed = Vec::new();
        let wanted = PEERS
            .iter()
            .filter(|peer| self.wanted.peers && self.wanted.any(peer.figures));
        for peer in wanted {
            match peer.install(self.place).await {
                Ok(peer) => installed.push(peer),
                Err(error) => {
                    figures.leave_out(format!(
                        "{}, which cannot be installed here: {error:#}",
                        peer.name()
                    ));
                }
            }
        }
        installed
    }
}
