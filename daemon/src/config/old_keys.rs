//! Keys that were called after their unit, before values had one. They still work, and are said to be old.

use anyhow::{Context, bail};
use toml::{Table, Value};

/// A key that has another name now, and what its value has to have behind it.
struct Old {
    section: &'static str,
    key: &'static str,
    now: &'static str,
    unit: &'static str,
}

const OLD: [Old; 2] = [
    Old { section: "network", key: "connections_grace_s", now: "connections_grace", unit: "s" },
    Old { section: "network", key: "memory_mib", now: "memory", unit: "MiB" },
];

/// The variable that sets a key.
pub(super) fn variable(section: &str, key: &str) -> String {
    format!("P2PD_{section}_{key}").to_uppercase()
}

/// Whether a variable sets a key by its old name.
pub(super) fn is_variable(name: &str) -> bool {
    OLD.iter().any(|old| variable(old.section, old.key) == name)
}

/// What a key was called before, if it had another name.
pub(super) fn before(section: &str, key: &str) -> Option<&'static str> {
    OLD.iter().find(|old| (old.section, old.now) == (section, key)).map(|old| old.key)
}

/// Gives the keys of a file their names of today, and says so of each.
pub(super) fn rename(file: &mut Table) -> anyhow::Result<Vec<String>> {
    let mut notes = Vec::new();
    for Old { section, key, now, unit } in OLD {
        let Some(Value::Table(keys)) = file.get_mut(section) else { continue };
        let Some(value) = keys.remove(key) else { continue };
        let number = value.as_integer().filter(|number| *number >= 0);
        let number = number.with_context(|| format!("{section}.{key} takes a whole number, not {value}"))?;
        let written = format!("{number}{unit}");
        notes.push(format!("{section}.{key} is an old name; write {now} = \"{written}\""));
        if keys.insert(now.to_owned(), written.into()).is_some() {
            bail!("{section}.{now} and {section}.{key}, its old name, are both set; remove the old one");
        }
    }
    Ok(notes)
}

/// What variables set by old names, and what to say of each.
pub(super) fn of_variables(get: impl Fn(&str) -> Option<String>) -> anyhow::Result<(Table, Vec<String>)> {
    let (mut set, mut notes) = (Table::new(), Vec::new());
    for Old { section, key, now, unit } in OLD {
        let name = variable(section, key);
        let is_set = |name: &str| get(name).filter(|text| !text.is_empty());
        let Some(text) = is_set(&name) else { continue };
        if is_set(&variable(section, now)).is_some() {
            bail!("{} and {name}, its old name, are both set; remove the old one", variable(section, now));
        }
        let number: u64 = text.parse().with_context(|| format!("{name} takes a whole number, not `{text}`"))?;
        let written = format!("{number}{unit}");
        notes.push(format!("{name} is an old name; write {}={written}", variable(section, now)));
        if let Value::Table(keys) = set.entry(section).or_insert_with(|| Table::new().into()) {
            keys.insert(now.to_owned(), written.into());
        }
    }
    Ok((set, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(text: &str) -> anyhow::Result<(String, Vec<String>)> {
        let mut table: Table = text.parse()?;
        let notes = rename(&mut table)?;
        Ok((table.to_string(), notes))
    }

    #[test]
    fn an_old_key_gets_its_unit_and_is_told() {
        let (text, notes) = renamed("[network]\nmemory_mib = 64\nconnections_grace_s = 0\n").unwrap();
        assert_eq!(text, "[network]\nconnections_grace = \"0s\"\nmemory = \"64MiB\"\n");
        assert_eq!(notes.len(), 2);
        assert!(notes[1].contains("network.memory_mib") && notes[1].contains("memory = \"64MiB\""), "{notes:?}");
        assert_eq!(renamed("[network]\nmemory = \"1GiB\"\n").unwrap().1, [""; 0]);
    }

    #[test]
    fn what_is_set_twice_or_is_no_number_is_refused() {
        for (text, words) in [
            ("[network]\nmemory_mib = 64\nmemory = \"1GiB\"\n", "both set"),
            ("[network]\nmemory_mib = -1\n", "network.memory_mib takes a whole number, not -1"),
            ("[network]\nmemory_mib = \"64\"\n", "takes a whole number, not \"64\""),
        ] {
            let fault = renamed(text).unwrap_err().to_string();
            assert!(fault.contains(words), "{fault}");
        }
    }

    #[test]
    fn old_variables_are_taken_too() {
        let get = |name: &str| (name == "P2PD_NETWORK_MEMORY_MIB").then(|| "128".to_owned());
        let (set, notes) = of_variables(get).unwrap();
        assert_eq!(set.to_string(), "[network]\nmemory = \"128MiB\"\n");
        assert!(notes[0].contains("P2PD_NETWORK_MEMORY=128MiB"), "{notes:?}");
        let both = of_variables(|_| Some("1".into())).unwrap_err().to_string();
        assert!(both.contains("P2PD_NETWORK_CONNECTIONS_GRACE_S, its old name, are both set"), "{both}");
        let word = |name: &str| name.ends_with("_MIB").then(|| "much".to_owned());
        assert!(of_variables(word).is_err() && is_variable("P2PD_NETWORK_CONNECTIONS_GRACE_S"));
    }
}
