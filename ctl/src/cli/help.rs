//! What `--help` says beside clap's own: the commands in groups, an example of each, and the exit codes.

use std::{ffi::OsString, fmt::Write};

use clap::{
    Command, Error,
    builder::{StyledStr, Styles},
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{GROUPS, Group, Row};

const CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no daemon reachable, 4 no permission, \
5 not found, 6 timed out, 7 refused as things stand, 8 try again later, 130 interrupted. SIGINT kills commands that run \
until stopped; serve, listen and publish-stream shut down cleanly.";

/// Columns of the names.
const NAMES: usize = 12;

/// The page of `p2pctl --help`, for clap to fill in.
pub(super) fn page(command: &Command) -> String {
    let head = Styles::styled();
    let (head, literal) = (head.get_header(), head.get_literal());
    let mut page = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for Group { title, rows } in GROUPS {
        let _ = write!(page, "\n{head}{title}:{head:#}\n");
        for Row { name, short } in rows {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(page, "  {literal}{name:NAMES$}{literal:#}{about}");
            if !short.is_empty() {
                let _ = writeln!(page, "  {:NAMES$}short: {literal}{}{literal:#}", "", short.join(", "));
            }
        }
    }
    let _ = write!(page, "\n{head}Options:{head:#}\n{{options}}{{after-help}}");
    page
}

/// The end of that page.
pub(super) fn end() -> String {
    let first = ["p2pctl status", "p2pctl peer list", "p2pctl topic sub chat", "p2pctl topic pub chat \"good day\""];
    format!(
        "{}\n\nThe short forms do the same: `p2pctl sub` is `p2pctl topic sub`. `p2pctl COMMAND --help` has the options \
        of a command and examples.\n\n{CODES}",
        examples(&first).ansi()
    )
}

/// Before an example.
const INDENT: &str = "  ";

/// Examples of a command, for the end of its help.
pub(super) fn examples(lines: &[&str]) -> StyledStr {
    let styles = Styles::styled();
    let head = styles.get_header();
    let mut text = format!("{head}Examples:{head:#}");
    for line in lines {
        let _ = write!(text, "\n{INDENT}{line}");
    }
    text.into()
}

/// The examples in a command's help.
fn examples_of(command: &Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    help.lines().filter_map(|line| line.strip_prefix(INDENT)).map(str::to_owned).collect()
}

/// A fault of usage with an example of the command that was meant, where clap has no advice of its own.
pub(super) fn with_example(mut fault: Error, all: &Command, words: impl Iterator<Item = OsString>) -> Error {
    let of_arguments = matches!(
        fault.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::ValueValidation
            | ErrorKind::InvalidValue
            | ErrorKind::UnknownArgument
            | ErrorKind::TooFewValues
            | ErrorKind::TooManyValues
    );
    let named = |at, word: OsString| word.to_str().and_then(|word| Command::find_subcommand(at, word)).unwrap_or(at);
    let mut examples = examples_of(words.fold(all, named));
    // One with the option that is wrong says more.
    let option = match fault.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.split(' ').next().filter(|option| option.starts_with('-')),
        _ => None,
    };
    let with_option = option.and_then(|option| examples.iter().position(|example| example.contains(option)));
    if of_arguments && !examples.is_empty() && fault.get(ContextKind::Suggested).is_none() {
        let example = examples.swap_remove(with_option.unwrap_or(0));
        let advice = format!("an example is `{example}`");
        fault.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice.into()]));
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    /// Every command with the words that lead to it, but clap's own `help`.
    fn all() -> Vec<(Vec<String>, Command)> {
        fn walk(path: &[String], command: &Command, all: &mut Vec<(Vec<String>, Command)>) {
            all.push((path.to_vec(), command.clone()));
            for inner in command.get_subcommands() {
                walk(&[path, &[inner.get_name().to_owned()]].concat(), inner, all);
            }
        }
        let mut all = Vec::new();
        walk(&[], &command(), &mut all);
        all
    }

    /// The words of a shell's line from `p2pctl` to the end of its command.
    fn words(line: &str) -> Vec<String> {
        let from = line.find("p2pctl").unwrap_or_else(|| panic!("{line}"));
        let mut words = vec![String::new()];
        let mut quote = None;
        for c in line[from..].chars() {
            match (c, quote) {
                ('|' | '<' | '>', None) => break,
                ('"' | '\'', None) => quote = Some(c),
                (_, Some(end)) if c == end => quote = None,
                (' ', None) => words.push(String::new()),
                _ => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    /// The commands, one in the other, that a line of arguments leads to.
    fn led_to(line: &str) -> Vec<String> {
        let matches = command().try_get_matches_from(words(line)).unwrap_or_else(|fault| panic!("{line}\n{fault}"));
        let mut path = Vec::new();
        let mut inner = &matches;
        while let Some((name, next)) = inner.subcommand() {
            path.push(name.to_owned());
            inner = next;
        }
        path
    }

    /// Noun and verb of a short form; any other path as it is.
    fn long_form(path: &[String]) -> Vec<String> {
        let [short] = path else { return path.to_vec() };
        let mut rows = GROUPS.iter().flat_map(|group| group.rows);
        let Some(row) = rows.find(|row| row.short.contains(&short.as_str())) else { return path.to_vec() };
        let verb = match short.as_str() {
            "streams" => "list",
            "publish-stream" => "publish",
            verb => verb,
        };
        [row.name, verb].map(str::to_owned).to_vec()
    }

    #[test]
    fn every_command_has_examples_that_are_taken_and_are_its_own() {
        for (path, command) in all() {
            let examples = examples_of(&command);
            assert!(!examples.is_empty(), "{path:?} has no example");
            for example in &examples {
                let led = led_to(example);
                assert!(led.starts_with(&long_form(&path)), "{path:?}: {example} is {led:?}");
            }
        }
    }

    #[test]
    fn help_groups_every_command_once_and_none_besides() {
        let mut listed: Vec<&str> = GROUPS
            .iter()
            .flat_map(|group| group.rows)
            .flat_map(|row| row.short.iter().copied().chain([row.name]))
            .collect();
        listed.sort_unstable();
        let command = command();
        let shown = command.get_subcommands().filter(|inner| !inner.is_hide_set());
        let mut known: Vec<&str> =
            shown.flat_map(|inner| inner.get_visible_aliases().chain([inner.get_name()])).collect();
        known.sort_unstable();
        assert_eq!(listed, known);
    }

    #[test]
    fn help_fits_eighty_columns() {
        let page = page(&command());
        let plain = anstream::adapter::strip_str(&page).to_string();
        assert!(plain.lines().all(|line| line.chars().count() <= 80), "{plain}");
    }

    #[test]
    fn a_fault_of_usage_shows_an_example() {
        for (line, example) in [
            (&["p2pctl", "dht", "stop"][..], "p2pctl dht stop town-archive"),
            (&["p2pctl", "events", "--after", "x"], "p2pctl -o jsonl events --after 1234"),
            (&["p2pctl", "open"], "p2pctl protocol open ..mv1eVMvL /chat/1.0.0"),
        ] {
            let fault = command().try_get_matches_from(line).unwrap_err();
            let words = line.iter().map(OsString::from);
            let shown = with_example(fault, &command(), words).to_string();
            assert!(shown.contains(example), "{shown}");
        }
    }
}
