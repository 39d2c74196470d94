//! How an agent process is spoken to: its output becomes messages, user messages become its input.
//!
//! To support another kind of agent, implement [`Adaptor`] and name it in [`adaptor`].

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json};

use crate::launch;

/// What one line of output becomes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// The message's type.
    pub(crate) kind: &'static str,
    /// Its text.
    pub(crate) text: String,
    /// What else belongs to it.
    pub(crate) data: Value,
    /// The agent has answered what it was asked.
    pub(crate) ends_turn: bool,
}

/// The framing between supervisor and agent process.
pub(crate) trait Adaptor: Sync {
    /// The message that a line of output becomes; `stream` is `stdout` or `stderr`.
    fn output(&self, stream: &'static str, line: &str) -> Outgoing;
    /// The message that a piece of a line becomes which is longer than a message can be; `begins` with the line's first.
    /// What it says of the turn is true of the whole line.
    fn piece(&self, stream: &'static str, piece: &str, _begins: bool) -> Outgoing {
        plain(stream, piece)
    }
    /// What a user message becomes on the agent's standard input.
    fn input(&self, text: &str) -> Vec<u8>;
    /// Whether the agent tells when it has answered; otherwise the end of its input does.
    fn has_turns(&self) -> bool;
}

/// The adaptor of that name.
pub(crate) fn adaptor(kind: launch::Adaptor) -> &'static dyn Adaptor {
    match kind {
        launch::Adaptor::Exec => &Exec,
        launch::Adaptor::StreamJson => &StreamJson,
    }
}

fn plain(stream: &'static str, line: &str) -> Outgoing {
    Outgoing { kind: "agent", text: line.to_owned(), data: json!({ "stream": stream }), ends_turn: false }
}

/// Lines of text each way.
#[derive(Debug)]
struct Exec;

impl Adaptor for Exec {
    fn output(&self, stream: &'static str, line: &str) -> Outgoing {
        plain(stream, line)
    }

    fn input(&self, text: &str) -> Vec<u8> {
        format!("{text}\n").into_bytes()
    }

    fn has_turns(&self) -> bool {
        false
    }
}

/// One JSON event per line each way, as agent CLIs offer.
#[derive(Debug)]
struct StreamJson;

impl Adaptor for StreamJson {
    fn output(&self, stream: &'static str, line: &str) -> Outgoing {
        match serde_json::from_str::<Value>(line) {
            Ok(event) if event.is_object() && stream == "stdout" => {
                let ends_turn = event.get("type").and_then(Value::as_str) == Some("result");
                if is_deeper_than(MAX_EVENT_DEPTH, &event) {
                    return Outgoing { ends_turn, ..plain(stream, line) };
                }
                Outgoing { kind: "event", text: text_of(&event), data: event, ends_turn }
            }
            _ => plain(stream, line),
        }
    }

    fn piece(&self, stream: &'static str, piece: &str, begins: bool) -> Outgoing {
        let ends_turn = begins && stream == "stdout" && type_of_beginning(piece).as_deref() == Some("result");
        Outgoing { ends_turn, ..plain(stream, piece) }
    }

    fn input(&self, text: &str) -> Vec<u8> {
        let event = json!({ "type": "user", "message": { "role": "user", "content": text } });
        format!("{event}\n").into_bytes()
    }

    fn has_turns(&self) -> bool {
        true
    }
}

/// The type of an event of which only the beginning is there, if it stands in that: agent CLIs put it first.
fn type_of_beginning(json: &str) -> Option<String> {
    struct Beginning<'a>(&'a mut Option<String>);

    impl<'de> Visitor<'de> for Beginning<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the beginning of an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<Cow<'_, str>>()? {
                if name == "type" {
                    *self.0 = Some(map.next_value()?);
                    return Ok(());
                }
                map.next_value::<IgnoredAny>()?;
            }
            Ok(())
        }
    }

    let mut found = None;
    // It ends too early, which is an error.
    serde_json::Deserializer::from_str(json).deserialize_map(Beginning(&mut found)).ok();
    found
}

/// An event nested deeper travels as the text that it came as: the API takes 64 levels of JSON, the message around it
/// included.
const MAX_EVENT_DEPTH: usize = 48;

fn is_deeper_than(levels: usize, value: &Value) -> bool {
    let within = |mut parts: Box<dyn Iterator<Item = &Value> + '_>| {
        levels == 0 || parts.any(|part| is_deeper_than(levels - 1, part))
    };
    match value {
        Value::Array(parts) => within(Box::new(parts.iter())),
        Value::Object(parts) => within(Box::new(parts.values())),
        _ => false,
    }
}

/// What a person would read of an event.
fn text_of(event: &Value) -> String {
    let found = ["/text", "/result", "/message/content", "/content", "/delta/text", "/message"]
        .iter()
        .find_map(|path| event.pointer(path).filter(|value| value.is_string() || value.is_array()));
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts: Vec<_> = parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_turns_lines_into_agent_messages() {
        let adaptor = adaptor(launch::Adaptor::Exec);
        let got = adaptor.output("stderr", "{\"type\":\"result\"}");
        assert_eq!((got.kind, got.ends_turn), ("agent", false));
        assert_eq!(got.data, json!({ "stream": "stderr" }));
        assert_eq!(adaptor.input("hello"), b"hello\n");
    }

    #[test]
    fn an_event_nested_too_deeply_for_the_api_travels_as_text() {
        let adaptor = adaptor(launch::Adaptor::StreamJson);
        let nested = |levels: usize| format!(r#"{{"type":"result","x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        let (fits, deep) = (nested(47), nested(48));
        assert_eq!(adaptor.output("stdout", &fits).kind, "event");
        let got = adaptor.output("stdout", &deep);
        assert_eq!((got.kind, got.text.as_str(), got.ends_turn), ("agent", deep.as_str(), true));
    }

    #[test]
    fn the_beginning_of_a_long_event_tells_its_type() {
        let adaptor = adaptor(launch::Adaptor::StreamJson);
        let table = [
            (r#"{"type":"result","result":"lo"#, true),
            (r#" {"n":1,"x":{"type":"no"},"type":"result","#, true),
            (r#"{"type":"assistant","x":"{\"type\":\"result\""#, false),
            (r#"{"x":"long, and the type is not there yet"#, false),
            (r#"{"type":["result"],"#, false),
            (r#"["type","result","#, false),
            ("no json", false),
        ];
        for (beginning, ends_turn) in table {
            let got = adaptor.piece("stdout", beginning, true);
            assert_eq!((got.kind, got.text.as_str(), got.ends_turn), ("agent", beginning, ends_turn), "{beginning}");
            assert!(!adaptor.piece("stdout", beginning, false).ends_turn, "only a beginning tells");
            assert!(!adaptor.piece("stderr", beginning, true).ends_turn);
        }
    }

    #[test]
    fn stream_json_turns_events_into_event_messages() {
        let adaptor = adaptor(launch::Adaptor::StreamJson);
        let table = [
            (r#"{"type":"assistant","message":{"content":[{"type":"text","text":"hi"}]}}"#, "event", "hi", false),
            (r#"{"type":"result","result":"done"}"#, "event", "done", true),
            (r#"{"type":"x"}"#, "event", "", false),
            ("not json", "agent", "not json", false),
            ("[1]", "agent", "[1]", false),
        ];
        for (line, kind, text, ends_turn) in table {
            let got = adaptor.output("stdout", line);
            assert_eq!((got.kind, got.text.as_str(), got.ends_turn), (kind, text, ends_turn), "{line}");
        }
        let input: Value = serde_json::from_slice(&adaptor.input("a \"b\"\nc")).unwrap();
        assert_eq!(input.pointer("/message/content"), Some(&json!("a \"b\"\nc")));
        assert!(adaptor.input("a\nb").split_last().is_some_and(|(_, rest)| !rest.contains(&b'\n')));
    }
}
