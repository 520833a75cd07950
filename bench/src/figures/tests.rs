use super::*;

fn figures() -> Figures {
    let mut figures = Figures::default();
    for value in [90.0, 100.0, 120.0] {
        figures.add("jobs-per-second", Side::Tramline, Sample::rate(value, None));
    }
    figures.add("jobs-per-second", Side::peer("slow"), Sample::value(10.0));
    figures.add("jobs-per-second", Side::peer("fast"), Sample::value(50.0));
    figures.add("enqueue-to-start", Side::Tramline, Sample::times((2.0, 8.0)));
    figures.add("enqueue-to-start", Side::peer("late"), Sample::times((6.0, 9.0)));
    figures.add("enqueue-to-start", Side::peer("soon"), Sample::times((1.0, 9.0)));
    figures
}

#[test]
fn names_are_unique_and_kebab_case() {
    for (at, figure) in FIGURES.iter().enumerate() {
        let is_kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(figure.name.chars().all(is_kebab), "{}", figure.name);
        assert!(
            FIGURES[..at].iter().all(|other| other.name != figure.name),
            "{} is there twice",
            figure.name
        );
    }
}

#[test]
fn the_best_peer_gives_the_ratio() {
    let entries = figures().entries();
    let rate = &entries[0];
    assert_eq!((rate.name.as_str(), rate.value), ("jobs-per-second", 100.0));
    assert_eq!((rate.ours.min, rate.ours.max), (90.0, 120.0));
    assert_eq!((rate.peer.as_deref(), rate.ratio), (Some("fast"), Some(2.0)));
    assert_eq!(rate.peers[1].ratio, Some(10.0));
    let time = &entries[1];
    assert_eq!((time.p50, time.p99), (Some(2.0), Some(8.0)));
    assert_eq!((time.peer.as_deref(), time.ratio), (Some("soon"), Some(0.5)));
}

#[test]
fn figures_of_the_run_before_are_kept() {
    let folder = std::env::temp_dir().join(format!("tramline-bench-{}", std::process::id()));
    figures().write(&folder, "").unwrap();
    let mut second = Figures::default();
    second.add("enqueue-to-start", Side::Tramline, Sample::times((3.0, 5.0)));
    let path = second.write(&folder, "the machine").unwrap();
    let entries: Vec<Entry> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let text = std::fs::read_to_string(folder.join("latest.md")).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(entries[0], figures().entries()[0]);
    assert_eq!((entries[1].value, entries[1].peers.len()), (3.0, 0));
    assert!(text.ends_with("the machine\n"));
}

#[test]
fn the_table_is_markdown_with_a_line_for_each_peer() {
    let text = table(&figures().entries()).to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with('|') && line.ends_with('|'))
    );
    assert!(lines[1].starts_with("|---"), "{text}");
    assert!(
        lines[2].contains("100 (90.00-120)") && lines[2].contains("fast"),
        "{text}"
    );
    assert!(lines[3].contains("slow") && !lines[3].contains("jobs"), "{text}");
}
