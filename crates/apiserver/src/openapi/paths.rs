//! The paths of a group's resources, with an operation for every verb.

use serde_json::{Map, Value, json};

use super::{names, parameters};
use crate::discovery::{Resource, Subresource};

const JSON: &str = "application/json";
const PATCHES: [&str; 2] = ["application/merge-patch+json", "application/json-patch+json"];

/// What besides is taken where operations are created.
const BATCH: &str = " The body may also be an OperationList of at most 512 items: each is created, or refused, on its own, \
                     and the answer is an OperationList with an item for each, the object as it was created or the Status \
                     that says why it was not; 201 when all were created, 200 when some were not.";

/// One operation, before it becomes JSON.
struct Operation<'a> {
    /// The kind that it speaks: group, version, kind.
    speaks: (&'a str, &'a str, &'a str),
    action: &'a str,
    id: String,
    description: String,
    parameters: Value,
    body: Option<(&'a [&'a str], Value)>,
    answer: (&'a str, Value),
}

impl Operation<'_> {
    fn to_json(&self) -> Value {
        let (group, version, kind) = self.speaks;
        let (media, schema) = &self.answer;
        let mut value = json!({
            "operationId": self.id,
            "description": self.description,
            "parameters": self.parameters,
            "responses": {
                "200": { "description": "OK", "content": { *media: { "schema": schema } } },
                "401": { "description": "Unauthorized" },
            },
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": { "group": group, "version": version, "kind": kind },
        });
        if let Some((types, schema)) = &self.body {
            let content: Map<_, _> =
                types.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect();
            value["requestBody"] = json!({ "required": self.action != "delete", "content": content });
        }
        value
    }
}

/// All paths below `/api/VERSION` or `/apis/GROUP/VERSION`.
pub(super) fn of(base: &str, resources: &[Resource]) -> Map<String, Value> {
    let mut paths = Map::new();
    for resource in resources {
        let everywhere = format!("{base}/{}", resource.plural);
        let verbs = Verbs::new(resource);
        if resource.stored.is_none() {
            paths.insert(everywhere, json!({ "post": verbs.create() }));
            continue;
        }
        let mut collection = everywhere.clone();
        let mut place = Vec::new();
        if resource.namespaced {
            paths.insert(everywhere, json!({ "get": verbs.list("ForAllNamespaces") }));
            collection = format!("{base}/namespaces/{{namespace}}/{}", resource.plural);
            place.push(parameters::path("namespace", "Namespace of the object."));
        }
        let item = format!("{collection}/{{name}}");
        paths.insert(
            collection,
            json!({
                "get": verbs.list(""), "post": verbs.create(), "delete": verbs.delete_collection(),
                "parameters": place,
            }),
        );
        place.insert(0, parameters::path("name", "Name of the object."));
        paths.insert(
            item.clone(),
            json!({
                "get": verbs.get(""), "put": verbs.put(""), "patch": verbs.patch(""), "delete": verbs.delete(),
                "parameters": place,
            }),
        );
        for sub in &resource.subresources {
            let mut operations = verbs.subresource(sub);
            operations.insert("parameters".to_owned(), place.clone().into());
            paths.insert(format!("{item}/{}", sub.name), operations.into());
        }
    }
    paths
}

/// The operations of one resource.
struct Verbs<'a> {
    resource: &'a Resource,
    object: Value,
}

impl<'a> Verbs<'a> {
    fn new(resource: &'a Resource) -> Self {
        let object = names::reference(&names::kind(resource.group, resource.version, resource.kind));
        Self { resource, object }
    }

    /// An operation without body that answers with the object.
    fn operation(&self, action: &'a str, suffix: &str, description: String, parameters: Value) -> Operation<'a> {
        let Resource { group, version, kind, namespaced, .. } = self.resource;
        let verb = match action {
            "post" => "create",
            "put" => "replace",
            "get" => "read",
            other => other,
        };
        let scope = if *namespaced && suffix != "ForAllNamespaces" { "Namespaced" } else { "" };
        Operation {
            speaks: (group, version, kind),
            action,
            id: format!("{verb}{}{scope}{kind}{suffix}", names::camel(group, version)),
            description,
            parameters,
            body: None,
            answer: (JSON, self.object.clone()),
        }
    }

    fn list(&self, suffix: &str) -> Value {
        let Resource { group, version, kind, .. } = self.resource;
        let list = names::reference(&names::kind(group, version, &format!("{kind}List")));
        let description = format!("List or watch objects of kind {kind}.");
        Operation { answer: (JSON, list), ..self.operation("list", suffix, description, parameters::list()) }.to_json()
    }

    fn create(&self) -> Value {
        let mut description = format!("Create a {}.", self.resource.kind);
        if (self.resource.group, self.resource.kind) == (mainstay_api::GROUP, "Operation") {
            description.push_str(BATCH);
        }
        let operation = self.operation("post", "", description, parameters::write());
        Operation { body: Some((&[JSON], self.object.clone())), ..operation }.to_json()
    }

    fn get(&self, part: &str) -> Value {
        let description = format!("Read a {}.", self.resource.kind);
        self.operation("get", part, description, json!([])).to_json()
    }

    fn put(&self, part: &str) -> Value {
        let description = format!("Replace a {}.", self.resource.kind);
        let operation = self.operation("put", part, description, parameters::write());
        Operation { body: Some((&[JSON], self.object.clone())), ..operation }.to_json()
    }

    fn patch(&self, part: &str) -> Value {
        let description = format!("Change parts of a {}.", self.resource.kind);
        let operation = self.operation("patch", part, description, parameters::write());
        Operation { body: Some((&PATCHES, names::reference(names::PATCH))), ..operation }.to_json()
    }

    fn delete(&self) -> Value {
        let description = format!("Delete a {}.", self.resource.kind);
        deletion(self.operation("delete", "", description, parameters::delete()))
    }

    fn delete_collection(&self) -> Value {
        let description = format!("Delete objects of kind {}.", self.resource.kind);
        deletion(self.operation("deletecollection", "", description, parameters::delete_collection()))
    }

    fn subresource(&self, sub: &Subresource) -> Map<String, Value> {
        let part = names::capital(sub.name);
        if sub.name == "status" {
            let verbs = [("get", self.get(&part)), ("put", self.put(&part)), ("patch", self.patch(&part))];
            return verbs.into_iter().map(|(verb, value)| (verb.to_owned(), value)).collect();
        }
        let mut operations = Map::new();
        for verb in sub.verbs {
            let method = match *verb {
                "create" => "post",
                "update" => "put",
                other => other,
            };
            operations.insert(method.to_owned(), self.special(sub, method, &part));
        }
        operations
    }

    /// An operation on a subresource with a form of its own.
    fn special(&self, sub: &Subresource, method: &'static str, part: &str) -> Value {
        let free = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        let speaks = (sub.group, sub.version, sub.kind);
        let token = || names::reference(&names::kind(sub.group, sub.version, sub.kind));
        let (parameters, answer) = match (sub.name, method) {
            ("log", _) => (parameters::log(), ("text/plain", json!({ "type": "string" }))),
            ("exec", _) => (parameters::exec(), ("*/*", json!({ "type": "string" }))),
            ("messages", "get") => (parameters::messages(), ("application/x-ndjson", json!({ "type": "string" }))),
            ("token", _) => (parameters::write(), (JSON, token())),
            _ => (json!([]), (JSON, free.clone())),
        };
        let body = (method != "get" && sub.name != "exec")
            .then(|| (&[JSON] as &[_], if sub.name == "token" { token() } else { free }));
        let description = format!("The {} of a {}.", sub.name, self.resource.kind);
        Operation { speaks, body, answer, ..self.operation(method, part, description, parameters) }.to_json()
    }
}

/// A deletion: takes options, and answers with a Status.
fn deletion(operation: Operation<'_>) -> Value {
    let body = Some((&[JSON] as &[_], names::reference(names::DELETE_OPTIONS)));
    Operation { body, answer: (JSON, names::reference(names::STATUS)), ..operation }.to_json()
}
