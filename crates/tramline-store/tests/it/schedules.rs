//! Schedules, calendars and periods by SQL.

use serde_json::json;
use tramline_core::schedule::{CatchUp, Overlap, Spec, When};
use tramline_store::schedules::{self, NewSchedule, ScheduleRow};
use tramline_store::{StoreError, calendars};
use uuid::Uuid;

use crate::support::*;

fn nightly() -> NewSchedule {
    NewSchedule {
        name: "nightly".into(),
        spec: Spec::cron("0 3 * * *", "Europe/Berlin"),
        target: "step".into(),
        input: json!({ "a": null }),
        queue: None,
        priority: None,
        paused: None,
        source: "file".into(),
    }
}

async fn store(w: &World, s: &NewSchedule) -> bool {
    schedules::store(&w.store, s).await.unwrap()
}

async fn read(w: &World) -> ScheduleRow {
    schedules::list(&w.store, Some("nightly"))
        .await
        .unwrap()
        .remove(0)
}

#[tokio::test]
async fn a_schedule_changes_only_when_something_is_different() {
    let w = world().await;
    assert!(store(&w, &nightly()).await);
    assert!(!store(&w, &nightly()).await);
    let first = read(&w).await;
    assert_eq!(
        (
            first.rule.shard,
            first.rule.revision,
            first.rule.paused,
            first.rule.last_due
        ),
        (key_shard("nightly"), 1, false, None)
    );
    assert_eq!(
        (&first.rule.spec, &first.input),
        (&nightly().spec, &json!({ "a": null }))
    );
    let changed = NewSchedule {
        spec: Spec::cron("0 4 * * *", "Europe/Berlin"),
        ..nightly()
    };
    assert!(store(&w, &changed).await);
    assert_eq!(
        (read(&w).await.rule.revision, read(&w).await.rule.spec),
        (2, changed.spec)
    );
    let defaults: (String, i16) = {
        let row = w
            .sql
            .query_one("select queue, priority from ops.schedules", &[])
            .await
            .unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!(defaults, ("default".into(), 1));
    let bad = NewSchedule {
        name: "no good".into(),
        ..nightly()
    };
    assert_eq!(
        schedules::store(&w.store, &bad).await.unwrap_err().sqlstate(),
        Some("23514")
    );
}

#[tokio::test]
async fn every_rule_comes_back_as_it_was_stored() {
    let w = world().await;
    let spec = Spec {
        jitter_ms: 30_000,
        start_at: Some(NOW),
        end_at: Some(NOW + 1_000),
        exclude: vec!["holidays".into()],
        overlap: Overlap::CancelOlder,
        catch_up: CatchUp::All,
        catch_up_max: 7,
        late_after_ms: 60_000,
        ..Spec::of(
            When::Every {
                step_ms: 90_000,
                anchor: Some(NOW),
            },
            "Asia/Tokyo",
        )
    };
    let new = NewSchedule {
        spec: spec.clone(),
        queue: Some("q".into()),
        priority: Some(0),
        paused: Some(true),
        ..nightly()
    };
    store(&w, &new).await;
    assert_eq!(read(&w).await.rule.spec, spec);
    assert!(read(&w).await.rule.paused);
}

#[tokio::test]
async fn an_interval_keeps_its_anchor_until_its_length_changes() {
    let w = world().await;
    let every = |step_ms| NewSchedule {
        spec: Spec::of(
            When::Every {
                step_ms,
                anchor: None,
            },
            "UTC",
        ),
        ..nightly()
    };
    let anchor = async || match read(&w).await.rule.spec.when {
        When::Every { anchor, .. } => anchor.unwrap(),
        When::Cron(_) => panic!("an interval"),
    };
    store(&w, &every(90_000)).await;
    let first = anchor().await;
    w.sql.execute("update tramline.schedules set anchor = anchor - interval '1 hour', active_since = now() - interval '1 hour'", &[]).await.unwrap();
    assert!(!store(&w, &every(90_000)).await, "nothing is different");
    assert!(
        store(
            &w,
            &NewSchedule {
                priority: Some(0),
                ..every(90_000)
            }
        )
        .await
    );
    assert_eq!(anchor().await, first - 3_600_000);
    let since = read(&w).await.rule.active_since;
    store(&w, &every(60_000)).await;
    assert!(anchor().await >= first);
    assert!(
        read(&w).await.rule.active_since > since,
        "the past of another interval is not made up for"
    );
}

#[tokio::test]
async fn a_pause_stays_until_somebody_says_otherwise_and_its_time_is_known() {
    let w = world().await;
    store(&w, &nightly()).await;
    let made = read(&w).await.rule;
    assert_eq!(made.paused_since, None);
    assert!(
        schedules::pause(&w.store, "nightly", true, "ada", None)
            .await
            .unwrap()
    );
    assert!(
        !schedules::pause(&w.store, "nobody", true, "ada", None)
            .await
            .unwrap()
    );
    let paused = read(&w).await.rule;
    assert!(paused.paused && paused.paused_since.is_some());
    store(
        &w,
        &NewSchedule {
            priority: Some(0),
            ..nightly()
        },
    )
    .await;
    assert!(
        read(&w).await.rule.paused,
        "a new version of the file does not resume it"
    );
    schedules::pause(&w.store, "nightly", false, "ada", None)
        .await
        .unwrap();
    let resumed = read(&w).await.rule;
    assert!(!resumed.paused && resumed.active_since >= resumed.paused_since.unwrap());
    assert_eq!(resumed.paused_since, paused.paused_since);
    schedules::pause(&w.store, "nightly", true, "ada", None)
        .await
        .unwrap();
    store(
        &w,
        &NewSchedule {
            paused: Some(false),
            ..nightly()
        },
    )
    .await;
    assert!(!read(&w).await.rule.paused);
    // other due times: what the old ones missed is nobody's
    store(
        &w,
        &NewSchedule {
            spec: Spec::cron("0 5 * * *", "UTC"),
            ..nightly()
        },
    )
    .await;
    assert_eq!(read(&w).await.rule.paused_since, None);
}

#[tokio::test]
async fn owners_notice_every_change_by_one_number_and_read_their_own() {
    let w = world().await;
    let changes = async || schedules::changes(&w.store).await.unwrap();
    let mut seen = vec![changes().await];
    store(&w, &nightly()).await;
    seen.push(changes().await);
    store(&w, &nightly()).await;
    seen.push(changes().await);
    schedules::pause(&w.store, "nightly", true, "ada", None)
        .await
        .unwrap();
    seen.push(changes().await);
    w.sql
        .execute(
            "update tramline.schedules set last_due = now(), problem = 'x'",
            &[],
        )
        .await
        .unwrap();
    seen.push(changes().await);
    calendars::store(&w.store, "holidays", &["12-25".into()], None, "test")
        .await
        .unwrap();
    seen.push(changes().await);
    assert!(schedules::delete(&w.store, "nightly", "ada").await.unwrap());
    assert!(!schedules::delete(&w.store, "nightly", "ada").await.unwrap());
    seen.push(changes().await);
    assert_eq!(seen, [0, 1, 1, 2, 2, 3, 4]);
    store(&w, &nightly()).await;
    let shard = key_shard("nightly");
    assert_eq!(schedules::rules(&w.store, &[shard]).await.unwrap().len(), 1);
    assert!(
        schedules::rules(&w.store, &[(shard + 1) % 16])
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn ten_thousand_schedules_are_one_change_and_one_read() {
    let w = world().await;
    w.sql
        .batch_execute(
            "insert into tramline.schedules (name, shard, cron, target)
             select 's' || i, tramline.key_shard('s' || i), '* * * * *', 'step' from generate_series(1, 10000) i",
        )
        .await
        .unwrap();
    assert_eq!(schedules::changes(&w.store).await.unwrap(), 1);
    let all: Vec<u16> = (0..16).collect();
    assert_eq!(schedules::rules(&w.store, &all).await.unwrap().len(), 10_000);
    assert!(schedules::open_periods(&w.store, &all).await.unwrap().is_empty());
}

#[tokio::test]
async fn plain_sql_makes_schedules_and_is_told_what_is_wrong() {
    let w = world().await;
    w.sql
        .execute(
            "select ops.set_schedule('nightly', 'step', p_every => interval '90 seconds', p_overlap => 'queue', p_jitter => interval '10 seconds')",
            &[],
        )
        .await
        .unwrap();
    let row = read(&w).await;
    assert!(matches!(
        row.rule.spec.when,
        When::Every {
            step_ms: 90_000,
            anchor: Some(_)
        }
    ));
    assert_eq!(
        (row.rule.spec.overlap, row.rule.spec.jitter_ms),
        (Overlap::Queue, 10_000)
    );
    let every: bool = w
        .value(
            "select every = interval '90 seconds' and jitter = interval '10 seconds' from ops.schedules",
            &[],
        )
        .await;
    assert!(every);
    for (call, code) in [
        ("'x', 'nobody', '* * * * *'", "TL404"),
        ("'x', 'step'", "TL422"),
        ("'x', 'step', '* * * * *', interval '90 seconds'", "TL422"),
        ("'x', 'step', p_every => interval '1 millisecond'", "TL422"),
        ("'x', 'step', '* * * * *', p_overlap => 'sometimes'", "TL422"),
        ("'-x', 'step', '* * * * *'", "TL422"),
        (
            "'x', 'step', '* * * * *', p_exclude => array['holidays']",
            "TL404",
        ),
    ] {
        assert_eq!(
            w.refusal(&format!("select ops.set_schedule({call})"), &[]).await,
            code,
            "{call}"
        );
    }
}

#[tokio::test]
async fn calendars_are_read_or_say_why_not_and_stay_while_they_are_used() {
    let w = world().await;
    let store_calendar = async |name: &str, entry: &str| {
        calendars::store(&w.store, name, &[entry.into()], Some("UTC"), "file:x")
            .await
            .unwrap()
    };
    assert!(store_calendar("holidays", "12-25").await);
    assert!(!store_calendar("holidays", "12-25").await);
    assert!(store_calendar("broken", "someday").await);
    let found = calendars::read(&w.store).await.unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["holidays"]);
    let problem: String = w
        .value("select problem from ops.calendars where name = 'broken'", &[])
        .await;
    assert!(problem.contains("`someday`"), "{problem}");
    w.sql
        .execute(
            "select ops.set_schedule('nightly', 'step', '* * * * *', p_exclude => array['holidays'])",
            &[],
        )
        .await
        .unwrap();
    let refused = calendars::delete(&w.store, "holidays", "ada").await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Refused { ref code, .. } if code == "TL409"),
        "{refused:?}"
    );
    assert_eq!(
        calendars::retain(&w.store, "file:", &[]).await.unwrap(),
        1,
        "the one that nobody names"
    );
    schedules::delete(&w.store, "nightly", "ada").await.unwrap();
    assert!(calendars::delete(&w.store, "holidays", "ada").await.unwrap());
}

#[tokio::test]
async fn a_period_that_is_asked_for_starts_once_with_its_key() {
    let w = world().await;
    store(&w, &nightly()).await;
    let due = [NOW, NOW + 60_000, NOW];
    let first = schedules::start_periods(&w.store, "nightly", &due, "me", "backfill by me")
        .await
        .unwrap();
    assert_eq!(
        first.iter().map(|p| (p.due_at, p.created)).collect::<Vec<_>>(),
        [(NOW, true), (NOW + 60_000, true)]
    );
    let again = schedules::start_periods(&w.store, "nightly", &due, "me", "backfill by me")
        .await
        .unwrap();
    assert!(
        again
            .iter()
            .zip(&first)
            .all(|(a, b)| !a.created && a.run_id == b.run_id)
    );
    let row = w.row(first[0].run_id.unwrap()).await;
    assert_eq!(row["metadata"]["asked_for"], true);
    assert_eq!(
        row["metadata"]["period"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
            .as_millisecond(),
        NOW
    );
    assert_eq!(
        (&row["source"], &row["triggered_by"]),
        (&json!("schedule:nightly"), &json!("me"))
    );
    assert_eq!(shard(first[0].run_id.unwrap()), key_shard("nightly"));
    assert_eq!(w.count("select count(*) from ops.runs").await, 2);

    // what was skipped gets its run after all
    w.sql
        .execute(
            "update tramline.schedule_periods set outcome = 'skipped' where run_id = $1",
            &[&first[0].run_id],
        )
        .await
        .unwrap();
    let revived = schedules::start_periods(&w.store, "nightly", &[NOW], "me", "backfill by me")
        .await
        .unwrap();
    assert!(revived[0].created && revived[0].run_id != first[0].run_id);
    let unknown = schedules::start_periods(&w.store, "nobody", &[NOW], "me", "x")
        .await
        .unwrap_err();
    assert!(
        matches!(unknown, StoreError::Refused { ref code, .. } if code == "TL404"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn a_trigger_is_outside_the_periods_unless_it_names_one() {
    let w = world().await;
    store(&w, &nightly()).await;
    let past = jiff::Timestamp::now().as_millisecond() - 60_000;
    let free: Uuid = schedules::trigger(&w.store, "nightly", None, "me").await.unwrap();
    let row = w.row(free).await;
    assert_eq!(row["metadata"], json!({ "schedule": "nightly" }));
    let named = schedules::trigger(&w.store, "nightly", Some(past), "me")
        .await
        .unwrap();
    assert_ne!(free, named);
    assert!(!w.row(named).await["metadata"]["period"].is_null());
    for (name, period, code) in [
        ("nightly", Some(past), "TL409"),
        ("nightly", Some(past + 3_600_000), "TL422"),
        ("nobody", None, "TL404"),
    ] {
        let refused = schedules::trigger(&w.store, name, period, "me")
            .await
            .unwrap_err();
        assert!(
            matches!(refused, StoreError::Refused { code: ref c, .. } if c == code),
            "{refused:?}"
        );
    }
}
