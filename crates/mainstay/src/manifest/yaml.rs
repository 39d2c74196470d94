//! YAML and JSON into values, with the line of every field.
//!
//! Bounded: depth, the number of nodes (aliases count each time they are used), and a key given twice is refused.

use std::collections::{BTreeMap, HashMap};

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Value};

pub(crate) use super::scalar::is_plain_string;
use super::scalar::resolve;
use super::{Document, ManifestError, step};

/// Nested deeper than the server accepts.
const MAX_DEPTH: usize = 64;
/// More nodes than any manifest of the allowed size could need.
const MAX_NODES: usize = 1_000_000;

/// Reads every document of a text; empty ones are left out.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Document>, ManifestError> {
    let mut reader =
        Reader { file, events: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0, lines: BTreeMap::new() };
    let mut documents = Vec::new();
    while let Some((event, _)) = reader.next()? {
        if !matches!(event, Event::DocumentStart(..)) {
            continue;
        }
        let Some((first, span)) = reader.next()? else { break };
        let value = reader.node(first, span, "", 0)?;
        let lines = std::mem::take(&mut reader.lines);
        reader.anchors.clear();
        if !value.is_null() {
            documents.push(Document { file: file.to_owned(), value, lines });
        }
    }
    Ok(documents)
}

struct Reader<'a> {
    file: &'a str,
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, (Value, usize)>,
    nodes: usize,
    lines: BTreeMap<String, usize>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, ManifestError> {
        loop {
            match self.events.next() {
                None => return Ok(None),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(Some(event)),
                Some(Err(error)) => return Err(self.error(*error.marker(), error.info())),
            }
        }
    }

    fn inside(&mut self) -> Result<(Event<'a>, Span), ManifestError> {
        self.next()?.ok_or_else(|| ManifestError::at(self.file, "the document ends too early"))
    }

    fn error(&self, marker: Marker, what: impl Into<String>) -> ManifestError {
        ManifestError::at(format!("{}:{}", self.file, marker.line()), what)
    }

    fn count(&mut self, nodes: usize, at: Marker) -> Result<(), ManifestError> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES { Err(self.error(at, format!("more than {MAX_NODES} values"))) } else { Ok(()) }
    }

    fn node(&mut self, event: Event<'a>, span: Span, path: &str, depth: usize) -> Result<Value, ManifestError> {
        let at = span.start;
        if depth > MAX_DEPTH {
            return Err(self.error(at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.lines.entry(path.to_owned()).or_insert(at.line());
        let before = self.nodes;
        self.count(1, at)?;
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let (value, size) =
                    self.anchors.get(&id).cloned().ok_or_else(|| self.error(at, "an alias within its own anchor"))?;
                self.count(size, at)?;
                return Ok(value);
            }
            Event::Scalar(text, style, anchor, tag) => (self.scalar(&text, style, tag.as_deref(), at)?, anchor),
            Event::SequenceStart(_, anchor, _) => (self.sequence(path, depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(path, depth)?, anchor),
            other => return Err(self.error(at, format!("unexpected {other:?}"))),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (value.clone(), self.nodes - before));
        }
        Ok(value)
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Marker) -> Result<Value, ManifestError> {
        let Some(tag) = tag else {
            return Ok(if style == ScalarStyle::Plain { resolve(text) } else { Value::from(text) });
        };
        let wanted = tag.core_suffix().unwrap_or_default();
        let value = resolve(text);
        let fits = match wanted {
            "str" => return Ok(Value::from(text)),
            "int" => value.is_i64() || value.is_u64(),
            "float" => value.is_number(),
            "bool" => value.is_boolean(),
            "null" => value.is_null(),
            _ => return Err(self.error(at, format!("the tag {} is not supported", tag.original()))),
        };
        if fits { Ok(value) } else { Err(self.error(at, format!("the value does not fit its tag !!{wanted}"))) }
    }

    fn sequence(&mut self, path: &str, depth: usize) -> Result<Value, ManifestError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.inside()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            items.push(self.node(event, span, &format!("{path}[{}]", items.len()), depth + 1)?);
        }
    }

    fn mapping(&mut self, path: &str, depth: usize) -> Result<Value, ManifestError> {
        let mut fields = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.inside()?;
            let (key, plain) = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, style, ..) => (text.into_owned(), style == ScalarStyle::Plain),
                _ => return Err(self.error(span.start, "a key must be a text")),
            };
            let below = step(path, &key);
            let (event, value_span) = self.inside()?;
            // `a:` and its value may be far apart: the key's line is what people look for.
            self.lines.insert(below.clone(), span.start.line());
            let value = self.node(event, value_span, &below, depth + 1)?;
            if plain && key == "<<" {
                merged.push((value, span.start));
            } else if fields.insert(key.clone(), value).is_some() {
                return Err(self.error(span.start, format!("the key \"{key}\" is given twice")));
            }
        }
        for (value, at) in merged {
            self.merge(&mut fields, value, at)?;
        }
        Ok(Value::Object(fields))
    }

    /// `<<: *base`: the fields of `base` that are not given here.
    fn merge(&self, fields: &mut Map<String, Value>, value: Value, at: Marker) -> Result<(), ManifestError> {
        let sources = if let Value::Array(items) = value { items } else { vec![value] };
        for source in sources {
            let Value::Object(source) = source else {
                return Err(self.error(at, "`<<` needs a mapping, or a list of mappings"));
            };
            for (key, value) in source {
                fields.entry(key).or_insert(value);
            }
        }
        Ok(())
    }
}
