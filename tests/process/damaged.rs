//! Records on disk that cannot be read: the daemon does not start without a rule, says which it is, and starts once it is removed.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use rocksdb::{ColumnFamily, DB, Options};

use crate::support::{Daemon, Start, p2pd, said, terminate};

const TABLES: [&str; 8] = ["settings", "directory", "peers", "events", "topics", "messages", "rules", "pins"];

/// Does something with the database of a daemon that has ended.
fn open(data: &Path, act: impl FnOnce(&DB)) {
    let db = DB::open_cf(&Options::default(), data.join("db"), TABLES).unwrap();
    act(&db);
}

fn table<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).unwrap()
}

fn start(place: &Path, data: &Path) -> Daemon {
    Daemon::start(place, "a", &["--data", data.to_str().unwrap()])
}

fn stop(mut daemon: Daemon) {
    terminate(&daemon.child);
    assert!(daemon.child.wait().unwrap().success());
}

/// A start that fails, or `p2pd store`.
fn run(data: &Path, args: &[&str]) -> Output {
    Command::new("timeout").arg("30").arg(p2pd()).args(args).arg("--data").arg(data).finish()
}

/// The code and the words of a start that is refused, before the network is there.
fn refused(data: &Path) -> (Option<i32>, String) {
    let output = run(data, &["run", "--dev", "--socket", data.with_extension("sock").to_str().unwrap()]);
    let words = said(&output);
    assert!(!words.contains("local_peer_id"), "{words}");
    (output.status.code(), words)
}

#[test]
fn a_damaged_rule_stops_the_start_until_it_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let daemon = start(place.path(), &data);
    daemon.good(&["peers", "deny", "192.0.2.0/24"]);
    daemon.good(&["peers", "deny", "198.51.100.0/24"]);
    stop(daemon);
    open(&data, |db| {
        let rules = table(db, "rules");
        let mut record = db.get_cf(rules, "192.0.2.0/24").unwrap().expect("a record of its own");
        record[0] ^= 0xff;
        db.put_cf(rules, "192.0.2.0/24", record).unwrap();
    });
    for _ in 0..2 {
        let (code, words) = refused(&data);
        assert_eq!(code, Some(1), "{words}");
        assert!(words.contains("the record `192.0.2.0/24` of the table `rules` cannot be read"), "{words}");
        assert!(words.contains("`p2pd store drop rules '192.0.2.0/24'`"), "{words}");
        open(&data, |db| {
            assert!(db.get_cf(table(db, "rules"), "192.0.2.0/24").unwrap().is_some(), "it is still there");
            assert!(db.get_cf(table(db, "rules"), "198.51.100.0/24").unwrap().is_some(), "and so is the good one");
        });
    }
    let checked = run(&data, &["store", "check"]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&checked.stdout).starts_with("rules '192.0.2.0/24': "), "{}", said(&checked));
    // What can be read is not removed.
    assert_eq!(run(&data, &["store", "drop", "rules", "198.51.100.0/24"]).status.code(), Some(1));
    let dropped = run(&data, &["store", "drop", "rules", "192.0.2.0/24"]);
    assert!(dropped.status.success(), "{}", said(&dropped));
    assert!(run(&data, &["store", "check"]).status.success());
    let daemon = start(place.path(), &data);
    let rules = daemon.good(&["peers", "rules"]);
    assert!(rules.contains("198.51.100.0/24") && !rules.contains("192.0.2.0/24"), "{rules}");
    let busy = run(&data, &["store", "check"]);
    assert!(said(&busy).contains("another p2pd uses"), "{}", said(&busy));
}

#[test]
fn a_damaged_line_of_an_older_database_is_not_lost() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    stop(start(place.path(), &data));
    open(&data, |db| {
        db.put("schema", 3u32.to_be_bytes()).unwrap();
        let settings = table(db, "settings");
        db.put_cf(settings, "access", "deny 192.0.2.0/24\nforbid 198.51.100.0/24\n").unwrap();
    });
    let (code, words) = refused(&data);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("`p2pd store drop rules 'forbid 198.51.100.0/24'`"), "{words}");
    assert!(run(&data, &["store", "drop", "rules", "forbid 198.51.100.0/24"]).status.success());
    assert!(start(place.path(), &data).good(&["peers", "rules"]).contains("192.0.2.0/24"));
}

#[test]
fn a_damaged_number_or_topic_stops_the_start_and_a_damaged_peer_does_not() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let daemon = start(place.path(), &data);
    daemon.good(&["topics", "set", "chat", "--keep", "1h"]);
    stop(daemon);
    let put = |name: &str, key: &[u8], value: &[u8]| open(&data, |db| db.put_cf(table(db, name), key, value).unwrap());
    put("peers", b"\x01", b"\xff");
    put("directory", b"\xffx", b"\xff");
    let daemon = start(place.path(), &data);
    stop(daemon);
    let left = |name: &str, key: &[u8]| {
        let mut left = None;
        open(&data, |db| left = db.get_cf(table(db, name), key).unwrap());
        left
    };
    assert_eq!((left("peers", b"\x01"), left("directory", b"\xffx")), (None, None), "they are given up");
    let junk: [(&str, &str, &[u8]); 2] = [("topics", "chat", b"\xff"), ("settings", "running-ms", b"soon")];
    for (name, key, junk) in junk {
        let before = left(name, key.as_bytes()).unwrap();
        put(name, key.as_bytes(), junk);
        let (code, words) = refused(&data);
        assert!(code == Some(1) && words.contains(&format!("`p2pd store drop {name} '{key}'`")), "{words}");
        put(name, key.as_bytes(), &before);
    }
    // The key of this peer, likewise.
    let key = data.join("identity.key");
    fs::write(&key, "junk").unwrap();
    let (code, words) = refused(&data);
    assert!(code == Some(1) && words.contains("restore it from a back-up"), "{words}");
}
