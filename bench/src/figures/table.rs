//! The table for people: markdown, which reads well in a terminal and can be pasted.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::{Entry, Measured};

/// One row per figure, and one more for each further peer.
pub fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    // A row is a line, however narrow the terminal is: else it could not be pasted.
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "figure", "unit", "tramline", "p99", "cpu µs", "peer", "", "p99", "cpu µs", "ratio",
    ]);
    for entry in entries {
        table.add_row(row(
            &entry.name,
            &entry.unit,
            Some(&entry.ours),
            entry.peers.first(),
        ));
        for peer in entry.peers.iter().skip(1) {
            table.add_row(row("", "", None, Some(peer)));
        }
    }
    for column in [2, 3, 4, 6, 7, 8, 9] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn row(name: &str, unit: &str, ours: Option<&Measured>, peer: Option<&Measured>) -> [String; 10] {
    let cell = |of: Option<&Measured>, what: fn(&Measured) -> String| of.map(what).unwrap_or_default();
    [
        name.to_owned(),
        unit.to_owned(),
        cell(ours, range),
        cell(ours, p99),
        cell(ours, cpu),
        cell(peer, |peer| peer.name.clone()),
        cell(peer, range),
        cell(peer, p99),
        cell(peer, cpu),
        cell(peer, |peer| {
            peer.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default()
        }),
    ]
}

/// Median, smallest and largest.
fn range(of: &Measured) -> String {
    if of.min == of.max {
        return number(of.value);
    }
    format!("{} ({}-{})", number(of.value), number(of.min), number(of.max))
}

fn p99(of: &Measured) -> String {
    of.p99.map(number).unwrap_or_default()
}

/// Microseconds of an item: client or engine, then Postgres or another server.
fn cpu(of: &Measured) -> String {
    of.cpu_client_us
        .zip(of.cpu_server_us)
        .map(|(client, server)| format!("{} + {}", number(client), number(server)))
        .unwrap_or_default()
}

fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}
