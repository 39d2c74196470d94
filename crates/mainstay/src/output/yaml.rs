//! YAML as kubectl writes it: keys in order, lists at the indent of their key, long texts as blocks.
//!
//! Invariant: a YAML 1.1 and a YAML 1.2 reader both get back the very value that was written.

use serde_json::Value;

use crate::manifest::yaml::is_plain_string;

/// A document, with its final newline.
pub(crate) fn to_string(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => write_map(&mut text, value, 0, true),
        Value::Array(items) if !items.is_empty() => write_list(&mut text, items, 0),
        _ => {
            write_scalar(&mut text, value, 0);
            text.push('\n');
        }
    }
    text
}

fn indent(text: &mut String, depth: usize) {
    text.extend(std::iter::repeat_n("  ", depth));
}

/// `started`: the cursor is already where the first key goes.
fn write_map(text: &mut String, value: &Value, depth: usize, mut started: bool) {
    for (key, value) in value.as_object().into_iter().flatten() {
        if !started {
            indent(text, depth);
        }
        started = false;
        write_string(text, key);
        text.push(':');
        write_nested(text, value, depth);
    }
}

fn write_nested(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            write_map(text, value, depth + 1, false);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write_list(text, items, depth);
        }
        _ => {
            text.push(' ');
            write_scalar(text, value, depth + 1);
            text.push('\n');
        }
    }
}

fn write_list(text: &mut String, items: &[Value], depth: usize) {
    for item in items {
        indent(text, depth);
        text.push('-');
        match item {
            Value::Object(fields) if !fields.is_empty() => {
                text.push(' ');
                write_map(text, item, depth + 1, true);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                write_list(text, items, depth + 1);
            }
            _ => {
                text.push(' ');
                write_scalar(text, item, depth + 1);
                text.push('\n');
            }
        }
    }
}

/// `depth`: where the lines of a block go.
fn write_scalar(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::String(string) if is_block(string) => write_block(text, string, depth),
        Value::String(string) => write_string(text, string),
        Value::Object(_) => text.push_str("{}"),
        Value::Array(_) => text.push_str("[]"),
        other => text.push_str(&other.to_string()),
    }
}

/// Text of several lines that a block can hold as it is.
fn is_block(string: &str) -> bool {
    string.trim_end_matches('\n').contains('\n')
        && !string.starts_with([' ', '\n'])
        && !string.chars().any(|c| {
            (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
        })
        && !string.lines().any(|line| line.starts_with('\t') || (line.trim().is_empty() && !line.is_empty()))
}

fn write_block(text: &mut String, string: &str, depth: usize) {
    let newlines = string.len() - string.trim_end_matches('\n').len();
    text.push_str(match newlines {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in string.strip_suffix('\n').unwrap_or(string).split('\n') {
        text.push('\n');
        if !line.is_empty() {
            indent(text, depth);
            text.push_str(line);
        }
    }
}

fn write_string(text: &mut String, string: &str) {
    if is_plain_string(string) {
        text.push_str(string);
    } else {
        // A JSON string is a YAML string.
        text.push_str(&Value::from(string).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Texts that some YAML reader or other takes for something else, one a line, and some with lines of their own.
    const WORDS: &str = "a\nyes\non\ny\nnull\n~\n0777\n0o7\n1e3\n1_000\n.5\n1:30\n2001-12-14\n- a\na: b\na #b\n#x\n&a\n*a\n!x\n%x\n@x\n`x\n\
        'q'\n\"q\"\n lead\ntrail \na\tb\nkey:\n?x\n? x\n-\n---\n=\n<<\n{a}\n[a]\na,b\n1.\n+1\n0x1F\n.inf\n.NaN\nTrue\nNO\n...\n|\n>\né";
    const BLOCKS: [&str; 14] = [
        "",
        "two\nlines",
        "two\nlines\n",
        "two\nlines\n\n",
        "\nlead",
        "  in\nout",
        "a\n\n  b\n",
        "x\n \ny",
        "\ta\nb",
        "a\r\nb",
        "\u{1b}[0m",
        "\u{2028}",
        "\n",
        "a\n\n\n",
    ];

    #[test]
    fn what_is_written_is_read_back() {
        let words: Vec<&str> = WORDS.split('\n').chain(BLOCKS).collect();
        let object: Value = json!({
            "words": words, "nested": [[1, [2]], [], {}, {"a": {"b": [ {"c": "two\nlines"} ]}}],
            "numbers": [1, -1, 1.5, 1e300, u64::MAX], "none": null, "yes": true, "k: y": {"": 0}, "block": "a\nb\n",
        });
        let text = to_string(&object);
        let read = crate::manifest::yaml::parse("t", &text).unwrap();
        assert_eq!(read[0].value, object, "{text}");
        // kube's own reader is one of YAML 1.2.
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), object, "{text}");
    }

    #[test]
    fn it_looks_like_kubectls() {
        let text =
            to_string(&json!({"kind": "X", "spec": {"list": [{"a": 1, "b": "yes"}], "none": [], "prompt": "x\ny\n"}}));
        assert_eq!(text, "kind: X\nspec:\n  list:\n  - a: 1\n    b: \"yes\"\n  none: []\n  prompt: |\n    x\n    y\n");
    }
}
