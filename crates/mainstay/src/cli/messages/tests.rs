use serde_json::json;

use super::*;

fn shown(message: &Value) -> String {
    anstream::adapter::strip_str(&for_people(message)).to_string()
}

#[test]
fn a_message_is_one_line_and_more_are_set_below() {
    let time = "2026-01-01T10:00:00.123Z";
    let text = shown(&json!({"number": 12, "time": time, "type": "user", "text": "one\ntwo\u{1b}[2J\n"}));
    let (first, second) = text.split_once('\n').unwrap();
    assert!(first.starts_with("#12 ") && first.ends_with(".123 user   one"), "{first}");
    assert_eq!(second, format!("{}two\u{fffd}[2J", " ".repeat(first.len() - 3)));
    assert!(
        shown(&json!({"number": 1, "time": time, "type": "agent", "text": "x", "redelivered": true}))
            .ends_with("agent  x (redelivered)")
    );
    assert!(
        shown(&json!({"number": 1, "time": time, "type": "event", "data": {"tool": "ls"}}))
            .ends_with("event  {\"tool\":\"ls\"}")
    );
    assert_eq!(shown(&json!({"gap": {"from": 1, "to": 9}})), "-- messages 1 to 9 are no longer kept --");
}
