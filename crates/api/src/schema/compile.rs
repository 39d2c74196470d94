//! From a JSON schema to the tree that the walks follow.

use std::sync::OnceLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use super::format::Format;

/// No schema nests deeper.
const MAX_DEPTH: usize = 48;
/// No compiled pattern takes more memory.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It has a keyword that would not be enforced.
    #[error("schema of {path:?}: keyword {keyword:?} is not supported, or its value is not what it takes")]
    Keyword {
        /// Where.
        path: String,
        /// Which.
        keyword: String,
    },
    /// A pattern is no regular expression, or too large a one.
    #[error("schema of {path:?}: pattern")]
    Pattern {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: Box<regex::Error>,
    },
    /// It nests too deep.
    #[error("schema of {path:?}: deeper than {MAX_DEPTH}")]
    TooDeep {
        /// Where.
        path: String,
    },
}

/// A set of JSON types; the empty set is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const OBJECT: Self = Self(1);
    pub(super) const ARRAY: Self = Self(2);
    pub(super) const STRING: Self = Self(4);
    pub(super) const INTEGER: Self = Self(8);
    pub(super) const NUMBER: Self = Self(16);
    pub(super) const BOOLEAN: Self = Self(32);
    pub(super) const NULL: Self = Self(64);

    const NAMES: [(Self, &'static str); 7] = [
        (Self::OBJECT, "object"),
        (Self::ARRAY, "array"),
        (Self::INTEGER, "integer"),
        (Self::NUMBER, "number"),
        (Self::STRING, "string"),
        (Self::BOOLEAN, "boolean"),
        (Self::NULL, "null"),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(types, _)| *types)
    }

    pub(super) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn is_any(self) -> bool {
        self.0 == 0
    }

    /// Whether a value of these types may stand here.
    pub(super) const fn allow(self, other: Self) -> bool {
        self.is_any() || self.0 & other.0 != 0
    }

    /// The names, comma-separated.
    pub(super) fn names(self) -> String {
        let names: Vec<_> = Self::NAMES.iter().filter(|(one, _)| self.0 & one.0 != 0).map(|(_, name)| *name).collect();
        names.join(",")
    }
}

/// One place of a schema.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) types: Types,
    pub(super) nullable: bool,
    /// Keeps fields that it does not know.
    pub(super) open: bool,
    /// It, or a branch, says in so many words that unknown fields are kept.
    preserves: bool,
    /// Values are never shown in errors.
    pub(super) secret: bool,
    /// Sorted by name.
    pub(super) properties: Box<[(Box<str>, Node)]>,
    pub(super) required: Box<[Box<str>]>,
    pub(super) additional: Option<Box<Node>>,
    pub(super) items: Option<Box<Node>>,
    pub(super) default: Option<Value>,
    /// Some place below has a default.
    pub(super) defaults_below: bool,
    pub(super) limits: Option<Box<Limits>>,
}

/// What few places have.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) values: Option<Box<[Value]>>,
    pub(super) format: Option<Format>,
    pub(super) pattern: Option<Regex>,
    pub(super) min_length: Option<u64>,
    pub(super) max_length: Option<u64>,
    pub(super) minimum: Option<Bound>,
    pub(super) maximum: Option<Bound>,
    pub(super) multiple_of: Option<f64>,
    pub(super) min_items: Option<u64>,
    pub(super) max_items: Option<u64>,
    pub(super) unique_items: bool,
    pub(super) min_properties: Option<u64>,
    pub(super) max_properties: Option<u64>,
    pub(super) all_of: Box<[Node]>,
    pub(super) any_of: Box<[Node]>,
    pub(super) one_of: Box<[Node]>,
}

/// A numeric bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound {
    pub(super) at: f64,
    pub(super) exclusive: bool,
    /// As the schema writes it.
    pub(super) whole: Option<i64>,
}

impl Node {
    /// The declared property of this name.
    pub(super) fn property(&self, name: &str) -> Option<&Self> {
        let at = self.properties.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        self.properties.get(at).map(|(_, node)| node)
    }

    /// The schema of the field of this name, here or in a branch, and whether it is a declared property.
    pub(super) fn child(&self, name: &str) -> Option<(&Self, bool)> {
        if let Some(node) = self.property(name) {
            return Some((node, true));
        }
        if let Some(node) = &self.additional {
            return Some((node, false));
        }
        self.branches().find_map(|branch| branch.child(name))
    }

    /// The schema of items, here or in a branch.
    pub(super) fn item(&self) -> Option<&Self> {
        self.items.as_deref().or_else(|| self.branches().find_map(Self::item))
    }

    pub(super) fn has_defaults(&self) -> bool {
        self.default.is_some() || self.defaults_below
    }

    fn branches(&self) -> impl Iterator<Item = &Self> {
        self.limits.iter().flat_map(|limits| limits.all_of.iter().chain(&limits.any_of).chain(&limits.one_of))
    }

    /// Whether it, or a branch, says which fields there are.
    fn names_fields(&self) -> bool {
        !self.properties.is_empty() || self.additional.is_some() || self.branches().any(Self::names_fields)
    }
}

/// Compiles the schema of whole objects: with `apiVersion`, `kind` and `metadata`.
pub(super) fn object(schema: &Value) -> Result<Node, CompileError> {
    static METADATA: OnceLock<Value> = OnceLock::new();
    let metadata = METADATA.get_or_init(super::of::<ObjectMeta>);
    let mut root = node(schema, "", 0)?;
    let mut properties = std::mem::take(&mut root.properties).into_vec();
    properties.retain(|(name, _)| !matches!(&**name, "apiVersion" | "kind" | "metadata"));
    let word = json!({"type": "string"});
    for (name, schema) in [("apiVersion", &word), ("kind", &word), ("metadata", metadata)] {
        properties.push((name.into(), node(schema, name, 1)?));
    }
    properties.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    root.properties = properties.into();
    root.required = root.required.iter().filter(|name| &***name != "metadata").cloned().collect();
    root.types = Types::OBJECT;
    Ok(root)
}

fn node(schema: &Value, path: &str, depth: usize) -> Result<Node, CompileError> {
    if depth > MAX_DEPTH {
        return Err(CompileError::TooDeep { path: path.to_owned() });
    }
    let fields = match schema {
        Value::Object(fields) => fields,
        Value::Bool(true) => return Ok(Node { open: true, preserves: true, ..Node::default() }),
        _ => return Err(CompileError::Keyword { path: path.to_owned(), keyword: schema.to_string() }),
    };
    let mut builder = Builder { path, depth, node: Node::default(), limits: Limits::default(), limited: false };
    let mut open = false;
    for (keyword, value) in fields {
        if keyword == "x-kubernetes-preserve-unknown-fields" {
            open = value == &Value::Bool(true);
        } else if !builder.shape(keyword, value, fields)? && !builder.limit(keyword, value)? {
            return Err(builder.refuse(keyword));
        }
    }
    builder.unsigned(fields);
    let mut node = builder.node;
    node.limits = builder.limited.then(|| Box::new(builder.limits));
    let children = node.properties.iter().map(|(_, child)| child).chain(node.additional.as_deref());
    node.defaults_below = children.chain(node.items.as_deref()).any(Node::has_defaults);
    node.preserves = open || node.branches().any(|branch| branch.preserves);
    node.open = node.preserves || !node.names_fields();
    Ok(node)
}

struct Builder<'a> {
    path: &'a str,
    depth: usize,
    node: Node,
    limits: Limits,
    limited: bool,
}

impl Builder<'_> {
    fn refuse(&self, keyword: &str) -> CompileError {
        CompileError::Keyword { path: self.path.to_owned(), keyword: keyword.to_owned() }
    }

    /// The keyword's value, when it is what the keyword takes.
    fn take<T>(&self, keyword: &str, value: Option<T>) -> Result<T, CompileError> {
        value.ok_or_else(|| self.refuse(keyword))
    }

    fn below(&self, schema: &Value, step: &str) -> Result<Node, CompileError> {
        node(schema, &format!("{}{step}", self.path), self.depth + 1)
    }

    fn branches(&self, value: &Value) -> Result<Box<[Node]>, CompileError> {
        let branches = value.as_array().ok_or_else(|| self.refuse("allOf, anyOf or oneOf"))?;
        branches.iter().map(|branch| self.below(branch, "")).collect()
    }

    /// Keywords that say what there is; `false` when it is none of them.
    fn shape(&mut self, keyword: &str, value: &Value, fields: &Map<String, Value>) -> Result<bool, CompileError> {
        match keyword {
            "type" => self.node.types = self.node.types.union(self.types(value)?),
            "x-kubernetes-int-or-string" => {
                let both = Types::INTEGER.union(Types::STRING);
                // A quantity may also be written as a number with a fraction.
                let quantity = fields.get("format").is_some_and(|format| format == "quantity");
                self.node.types = self.node.types.union(if quantity { both.union(Types::NUMBER) } else { both });
            }
            "nullable" => self.node.nullable = value == &Value::Bool(true),
            "writeOnly" => self.node.secret |= value == &Value::Bool(true),
            "default" => self.node.default = (!value.is_null()).then(|| value.clone()),
            "properties" => {
                let properties = value.as_object().ok_or_else(|| self.refuse(keyword))?;
                let compile = |(name, schema): (&String, &Value)| {
                    Ok((name.as_str().into(), self.below(schema, &format!(".{name}"))?))
                };
                let mut properties = properties.iter().map(compile).collect::<Result<Vec<_>, CompileError>>()?;
                properties.sort_unstable_by(|a: &(Box<str>, Node), b| a.0.cmp(&b.0));
                self.node.properties = properties.into();
            }
            "required" => {
                let names = value.as_array().ok_or_else(|| self.refuse(keyword))?;
                self.node.required = names.iter().filter_map(Value::as_str).map(Box::from).collect();
            }
            "additionalProperties" if value == &Value::Bool(false) => {}
            "additionalProperties" => self.node.additional = Some(Box::new(self.below(value, ".*")?)),
            "items" => self.node.items = Some(Box::new(self.below(value, "[]")?)),
            _ => return Ok(is_annotation(keyword)),
        }
        Ok(true)
    }

    fn types(&self, value: &Value) -> Result<Types, CompileError> {
        let names = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        names.iter().try_fold(Types::default(), |types, name| {
            let named = name.as_str().and_then(Types::named).ok_or_else(|| self.refuse("type"))?;
            Ok(types.union(named))
        })
    }

    /// Keywords that limit values; `false` when it is none of them.
    fn limit(&mut self, keyword: &str, value: &Value) -> Result<bool, CompileError> {
        let count = || self.take(keyword, value.as_u64()).map(Some);
        let text = || self.take(keyword, value.as_str());
        match keyword {
            "minLength" => self.limits.min_length = count()?,
            "maxLength" => self.limits.max_length = count()?,
            "minItems" => self.limits.min_items = count()?,
            "maxItems" => self.limits.max_items = count()?,
            "minProperties" => self.limits.min_properties = count()?,
            "maxProperties" => self.limits.max_properties = count()?,
            "uniqueItems" => self.limits.unique_items = value == &Value::Bool(true),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => self.bound(keyword, value)?,
            "multipleOf" => {
                let step = value.as_f64().filter(|step| *step > 0.0);
                self.limits.multiple_of = Some(self.take(keyword, step)?);
            }
            "enum" => self.limits.values = Some(self.take(keyword, value.as_array())?.clone().into()),
            "const" => self.limits.values = Some([value.clone()].into()),
            "pattern" => self.limits.pattern = Some(self.pattern(text()?)?),
            "format" => {
                let name = text()?;
                self.node.secret |= matches!(name, "password" | "byte");
                self.limits.format = Format::named(name);
            }
            "allOf" => self.limits.all_of = self.branches(value)?,
            "anyOf" => self.limits.any_of = self.branches(value)?,
            "oneOf" => self.limits.one_of = self.branches(value)?,
            _ => return Ok(false),
        }
        self.limited = true;
        Ok(true)
    }

    /// An unsigned format is a lower bound of its own.
    fn unsigned(&mut self, fields: &Map<String, Value>) {
        let unsigned = fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint"));
        if unsigned && self.limits.minimum.is_none() {
            self.limits.minimum = Some(Bound { at: 0.0, exclusive: false, whole: Some(0) });
        }
    }

    /// Both habits: `exclusiveMinimum: 5`, and `minimum: 5, exclusiveMinimum: true`.
    fn bound(&mut self, keyword: &str, value: &Value) -> Result<(), CompileError> {
        let refused = self.refuse(keyword);
        let lower = keyword.ends_with("inimum");
        let side = if lower { &mut self.limits.minimum } else { &mut self.limits.maximum };
        if let Value::Bool(exclusive) = value {
            // Keywords come sorted or not: the number may be still to come.
            let at = side.map_or(if lower { f64::NEG_INFINITY } else { f64::INFINITY }, |bound| bound.at);
            *side = Some(Bound { at, exclusive: *exclusive, whole: side.and_then(|bound| bound.whole) });
            return Ok(());
        }
        let at = value.as_f64().ok_or(refused)?;
        let exclusive = keyword.starts_with("exclusive") || side.is_some_and(|bound| bound.exclusive);
        *side = Some(Bound { at, exclusive, whole: value.as_i64() });
        Ok(())
    }

    fn pattern(&self, pattern: &str) -> Result<Regex, CompileError> {
        // Matching takes linear time whatever the pattern; the size limit bounds its constant.
        RegexBuilder::new(pattern)
            .size_limit(MAX_PATTERN_BYTES)
            .build()
            .map_err(|source| CompileError::Pattern { path: self.path.to_owned(), source: Box::new(source) })
    }
}

/// Keywords that say something to people and clients, and constrain nothing.
fn is_annotation(keyword: &str) -> bool {
    keyword.starts_with("x-")
        || matches!(
            keyword,
            "$schema" | "$comment" | "title" | "description" | "example" | "examples" | "deprecated" | "readOnly"
        )
}
