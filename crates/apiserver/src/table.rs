//! Answers in another form than the objects' own: `Table` and `PartialObjectMetadata`, of `meta.k8s.io`.
//!
//! [`negotiate`] says which form an `Accept` header asks for; [`Table`] and [`Metadata`] render a single object, a list
//! or the object of a watch event. Columns come from the kind's row in the registry. Stored bytes that are passed on
//! are spliced, not written anew.

pub(crate) mod accept;
mod age;
mod cell;

use jiff::Timestamp;
use mainstay_api::Kind;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

pub use accept::{Form, Version, negotiate};
pub use age::human_age;

/// What a row of a Table carries beside its cells: the query parameter `includeObject`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter; absent and empty mean `Metadata`.
    ///
    /// # Errors
    /// The message of a 400 BadRequest.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "None" => Ok(Self::None),
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            other => Err(format!("unrecognized includeObject value: {other:?}")),
        }
    }
}

/// The metadata of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListMeta<'a> {
    /// The snapshot that the list shows.
    pub resource_version: &'a str,
    /// Where the next page begins.
    pub next: Option<&'a str>,
    /// How many objects come after this page.
    pub remaining: Option<usize>,
}

impl ListMeta<'_> {
    fn to_json(self) -> Value {
        let mut metadata = json!({ "resourceVersion": self.resource_version });
        if let Some(next) = self.next {
            metadata["continue"] = next.into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

/// The parts of an object that are passed on as they are.
#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// Renders objects of one kind as Tables.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    kind: &'a Kind,
    version: Version,
    include: IncludeObject,
    now: Timestamp,
}

impl<'a> Table<'a> {
    /// Tables of a kind; `now` is what ages are counted from.
    pub const fn new(kind: &'a Kind, version: Version, include: IncludeObject, now: Timestamp) -> Self {
        Self { kind, version, include, now }
    }

    /// A list.
    ///
    /// # Errors
    /// When an object's bytes are not JSON.
    pub fn list<'b>(
        &self,
        objects: impl IntoIterator<Item = &'b [u8]>,
        meta: ListMeta<'_>,
    ) -> serde_json::Result<Vec<u8>> {
        self.render(&meta.to_json(), true, objects)
    }

    /// A single object.
    ///
    /// # Errors
    /// When its bytes are not JSON.
    pub fn single(&self, object: &[u8]) -> serde_json::Result<Vec<u8>> {
        self.one(object, true)
    }

    /// The `object` of a watch event; only the first of a stream need say what the columns are.
    ///
    /// # Errors
    /// When the object's bytes are not JSON.
    pub fn event(&self, object: &[u8], first: bool) -> serde_json::Result<Vec<u8>> {
        self.one(object, first)
    }

    fn one(&self, object: &[u8], columns: bool) -> serde_json::Result<Vec<u8>> {
        #[derive(Deserialize)]
        struct Stamped {
            metadata: Stamp,
        }
        #[derive(Deserialize)]
        struct Stamp {
            #[serde(rename = "resourceVersion", default)]
            resource_version: String,
        }
        let stamped: Stamped = serde_json::from_slice(object)?;
        self.render(&json!({ "resourceVersion": stamped.metadata.resource_version }), columns, [object])
    }

    fn render<'b>(
        &self,
        metadata: &Value,
        columns: bool,
        objects: impl IntoIterator<Item = &'b [u8]>,
    ) -> serde_json::Result<Vec<u8>> {
        let mut out = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"columnDefinitions\":{},\"rows\":[",
            self.version.api_version(),
            if columns { self.columns() } else { Value::Null },
        )
        .into_bytes();
        for (at, object) in objects.into_iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            self.row(object, &mut out)?;
        }
        out.extend_from_slice(b"]}\n");
        Ok(out)
    }

    fn columns(&self) -> Value {
        let mut columns = vec![json!({
            "name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": "Name must be unique within a namespace.",
        })];
        columns.extend(self.kind.columns.iter().map(|column| {
            json!({
                "name": column.name, "type": column.kind, "format": "", "priority": column.priority,
                "description": column.description,
            })
        }));
        columns.push(json!({
            "name": "Age", "type": "date", "format": "", "priority": 0,
            "description": "How long ago the object was created.",
        }));
        columns.into()
    }

    fn row(&self, bytes: &[u8], out: &mut Vec<u8>) -> serde_json::Result<()> {
        let object: Value = serde_json::from_slice(bytes)?;
        let metadata = &object["metadata"];
        let mut cells = Vec::with_capacity(self.kind.columns.len() + 2);
        cells.push(metadata["name"].clone());
        cells.extend(self.kind.columns.iter().map(|column| cell::cell(&object, column, self.now)));
        cells.push(cell::age(&metadata["creationTimestamp"], self.now));
        out.extend_from_slice(b"{\"cells\":");
        serde_json::to_writer(&mut *out, &cells)?;
        match self.include {
            IncludeObject::None => {}
            IncludeObject::Object => {
                out.extend_from_slice(b",\"object\":");
                out.extend_from_slice(bytes.trim_ascii_end());
            }
            IncludeObject::Metadata => {
                out.extend_from_slice(b",\"object\":");
                Metadata::new(self.version).write(bytes, out)?;
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// Renders objects of any kind as `PartialObjectMetadata`.
#[derive(Debug, Clone, Copy)]
pub struct Metadata {
    version: Version,
}

impl Metadata {
    /// In this version of `meta.k8s.io`.
    pub const fn new(version: Version) -> Self {
        Self { version }
    }

    /// A single object, or the object of a watch event.
    ///
    /// # Errors
    /// When its bytes are not JSON.
    pub fn single(&self, object: &[u8]) -> serde_json::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(512);
        self.write(object, &mut out)?;
        Ok(out)
    }

    /// A list.
    ///
    /// # Errors
    /// When an object's bytes are not JSON.
    pub fn list<'b>(
        &self,
        objects: impl IntoIterator<Item = &'b [u8]>,
        meta: ListMeta<'_>,
    ) -> serde_json::Result<Vec<u8>> {
        let mut out = format!(
            "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
            self.version.api_version(),
            meta.to_json()
        )
        .into_bytes();
        for (at, object) in objects.into_iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            self.write(object, &mut out)?;
        }
        out.extend_from_slice(b"]}\n");
        Ok(out)
    }

    fn write(self, object: &[u8], out: &mut Vec<u8>) -> serde_json::Result<()> {
        let parts: Parts<'_> = serde_json::from_slice(object)?;
        out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"");
        out.extend_from_slice(self.version.api_version().as_bytes());
        out.extend_from_slice(b"\",\"metadata\":");
        out.extend_from_slice(parts.metadata.get().as_bytes());
        out.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests;
