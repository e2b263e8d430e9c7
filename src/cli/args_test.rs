//! The tree of commands: sound, with examples, within 80 columns.

use clap::CommandFactory;

use super::*;

#[test]
fn the_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_shows_an_example() {
    for command in Cli::command().get_subcommands() {
        let help = command.get_after_help().map(ToString::to_string);
        let example = format!("tandem {}", command.get_name());
        assert!(
            help.is_some_and(|help| help.contains(&example)),
            "{example}"
        );
    }
}

#[test]
fn the_lab_knows_its_scenarios() {
    let known = crate::lab::Scenario::ALL.map(crate::lab::Scenario::name);
    assert_eq!(SCENARIOS[..known.len()], known);
    assert_eq!(SCENARIOS[known.len()..], ["upgrade", "survive", "all"]);
}

#[test]
fn help_fits_80_columns() {
    let mut tree = Cli::command();
    tree.build();
    let names: Vec<String> = tree
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    let mut pages = vec![tree.render_long_help().to_string()];
    for name in names {
        let command = tree.find_subcommand_mut(&name).unwrap();
        pages.push(command.render_long_help().to_string());
    }
    for line in pages.iter().flat_map(|page| page.lines()) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn an_address_is_a_network_of_one() {
    let net = |text: &str| flows::network(text).map(|net| net.to_string());
    assert_eq!(net("203.0.113.7"), Ok("203.0.113.7/32".into()));
    assert_eq!(net("2001:db8::7"), Ok("2001:db8::7/128".into()));
    assert_eq!(net("203.0.113.0/24"), Ok("203.0.113.0/24".into()));
    for bad in [
        "",
        "client",
        "203.0.113",
        "203.0.113.0/33",
        "203.0.113.7:80",
    ] {
        assert!(net(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_backend_is_named_by_two_words() {
    let name = |text: &str| text.parse::<BackendName>();
    assert_eq!(name("web/b1").unwrap().service, "web");
    assert_eq!(name("web/b1").unwrap().backend, "b1");
    for bad in ["", "web", "web/", "/b1", "web/b1/x"] {
        assert!(name(bad).is_err(), "{bad}");
    }
}
