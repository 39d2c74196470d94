use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("mainstay").chain(line.split_whitespace()))
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

/// R35.
#[test]
fn every_verb_has_examples() {
    for verb in Cli::command().get_subcommands() {
        let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.starts_with("Examples:"), "{} has none", verb.get_name());
    }
}

#[test]
fn usual_lines_are_understood() {
    for line in [
        "get sess -A -o wide",
        "get session fix -o yaml -n demo",
        "get agents,creds --project demo",
        "watch pods",
        "apply -f a -f b --dry-run",
        "apply -k overlay --dry-run=server -o json",
        "delete -f x --wait=false",
        "delete sess --all",
        "delete session a b --grace-period 0 --timeout 30s",
        "start fixer --prompt @x --env A=b --env C --credential g -f -o json",
        "start --prompt hi -- sh -c true",
        "stop a b --wait --timeout 90s",
        "resume a",
        "send a hello",
        "backup --to x --data-dir d",
        "restore x --replace",
        "migrate --data-dir d --database postgres://me@db/mainstay --database-password-file p",
        "fsck --json",
        "cancel operation a b",
        "replay op/a -n demo",
        "messages a -f --after 3 -o json",
        "logs pod/a-1 -f --tail 5 --since 10m",
        "status",
        "version --client",
        "completion bash",
        "serve --listen 127.0.0.1:0",
        "demo --keep",
        "get pods --server https://x --ca f --token-file t",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
    }
    for line in [
        "get",
        "apply",
        "apply -f a -k b",
        "delete",
        "delete -f x session a",
        "stop a --timeout 3s",
        "start --timeout soon",
        "cancel",
        "replay",
        "messages a --forever",
        "get x --server u --kubeconfig f",
        "get x --token-file t",
        "completion tcsh",
        "frobnicate",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn r5_no_flag_takes_a_secret_as_its_value() {
    for verb in Cli::command().get_subcommands() {
        for flag in verb.get_arguments() {
            let name = flag.get_id().as_str();
            assert!(!["token", "password", "secret"].contains(&name), "{} --{name}", verb.get_name());
        }
    }
}

#[test]
fn exit_codes_are_as_the_help_says() {
    let text = |code: u8| format!("{:?}", ExitCode::from(code));
    for (error, code) in [
        (CliError::Failed(String::new()), 1),
        (CliError::Silent, 1),
        (CliError::Usage(String::new()), 2),
        (CliError::NotFound(String::new()), 3),
        (CliError::Refused(String::new()), 4),
        (CliError::Unreachable(String::new()), 5),
        (CliError::TimedOut(String::new()), 6),
        (CliError::Interrupted, 130),
        (CliError::Output(std::io::ErrorKind::BrokenPipe.into()), 0),
    ] {
        assert_eq!(format!("{:?}", error.exit_code()), text(code), "{error:?}");
    }
}
