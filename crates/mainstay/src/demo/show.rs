//! What the demo shows, and how.

use std::path::Path;

use owo_colors::OwoColorize as _;
use serde_json::Value;
use tokio::time::Instant;

use super::Timeline;

pub(super) fn show_message(message: &Value) {
    let time = message["time"].as_str().and_then(|time| time.get(11..23)).unwrap_or_default();
    let kind = message["data"]["type"].as_str().or(message["type"].as_str()).unwrap_or_default();
    let text = message["text"].as_str().or(message["data"]["text"].as_str()).unwrap_or_default();
    let number = message["number"].as_u64().unwrap_or_default();
    let head = format!("#{number:<3} {time}  {kind:<10} ");
    let text = if text.is_empty() { message["data"].to_string() } else { text.trim().to_owned() };
    for (line, text) in text.lines().enumerate() {
        let head = if line == 0 { head.clone() } else { " ".repeat(head.len()) };
        tell(format!("{head}{text}").trim_end());
    }
}

pub(super) fn show_timeline(timeline: &Timeline) {
    let since = |at: Option<Instant>| match (timeline.created, at) {
        (Some(created), Some(at)) => at.duration_since(created).as_millis().to_string(),
        _ => "-".to_owned(),
    };
    say("Timeline of the session, in ms");
    for (what, at) in [
        ("created", timeline.created),
        ("Running", timeline.running),
        ("first message of the agent", timeline.first_message),
        ("Completed", timeline.finished.as_ref().map(|(_, at, _)| *at)),
    ] {
        tell(&format!("{what:<28}{:>6}", since(at)));
    }
}

pub(super) fn show_log(path: &Path) {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    warn("The demo failed. The end of the server's log:");
    lines[lines.len().saturating_sub(40)..].iter().copied().for_each(tell);
}

pub(super) fn say(text: &str) {
    anstream::println!("\n{} {}", "==>".green().bold(), text.bold());
}

pub(super) fn warn(text: &str) {
    anstream::println!("    {}", text.yellow());
}

pub(super) fn tell(text: &str) {
    anstream::println!("    {text}");
}
