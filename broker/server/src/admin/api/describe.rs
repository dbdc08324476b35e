//! What a handler takes and answers, read off its types.

use std::future::Future;

use axum::Json;
use axum::body::Body;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{Extension, FromRequest, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::problem::{Code, Problem};

/// One operation, as its handler's types tell it.
pub struct Sketch {
    /// Of the query and the head, as OpenAPI has them.
    pub parameters: Vec<Value>,
    /// Of each part of the path, in order.
    pub path: Vec<Value>,
    pub body: Option<BodySketch>,
    /// Of success; `None` where nothing is sent.
    pub answer: Option<Value>,
    /// It takes [`super::Change`].
    pub changes: bool,
    /// It takes [`super::IfMatch`].
    pub checks_revision: bool,
    /// It answers with an `ETag`.
    pub tagged: bool,
    /// A try is answered with an impact.
    pub impact: bool,
    input: SchemaGenerator,
    output: SchemaGenerator,
}

/// What a request carries.
#[derive(Debug, Clone)]
pub struct BodySketch {
    pub media: &'static str,
    pub schema: Value,
    pub required: bool,
}

impl Sketch {
    pub(in crate::admin) fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.meta_schema = None);
        // Requests are small and stand where they are sent; answers share their parts.
        let input = settings.clone().with(|settings| settings.inline_subschemas = true).for_deserialize();
        let output = settings
            .with(|settings| settings.definitions_path = "/components/schemas".into())
            .for_serialize();
        Self {
            parameters: Vec::new(),
            path: Vec::new(),
            body: None,
            answer: None,
            changes: false,
            checks_revision: false,
            tagged: false,
            impact: false,
            input: input.into_generator(),
            output: output.into_generator(),
        }
    }

    /// For the next operation; what answers share stays.
    pub(super) fn clear(&mut self) {
        self.parameters.clear();
        self.path.clear();
        (self.body, self.answer) = (None, None);
        (self.changes, self.checks_revision, self.tagged, self.impact) = (false, false, false, false);
    }

    /// What answers share.
    pub(super) fn definitions(&mut self) -> serde_json::Map<String, Value> {
        self.output.take_definitions(true)
    }

    pub(super) fn output_of<T: JsonSchema>(&mut self) -> Value {
        self.output.subschema_for::<T>().to_value()
    }

    fn input_of<T: JsonSchema>(&mut self) -> Value {
        self.input.subschema_for::<T>().to_value()
    }

    /// A parameter of the head.
    pub fn header(&mut self, name: &str, description: &str, schema: Value) {
        self.parameters.push(json!({
            "name": name, "in": "header", "required": false, "description": description, "schema": schema,
        }));
    }

    /// A parameter of the query.
    pub fn query(&mut self, name: &str, required: bool, mut schema: Value) {
        without_null(&mut schema);
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let mut parameter = json!({ "name": name, "in": "query", "required": required, "schema": schema });
        if let Some(description) = description {
            parameter["description"] = description;
        }
        self.parameters.push(parameter);
    }
}

/// A query or a path says nothing instead of null.
fn without_null(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|one| one != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            schema.insert(String::from("type"), one);
        }
    }
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.retain(|one| !one.is_null());
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|one| one["type"] != "null");
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            for (key, value) in only {
                schema.entry(key).or_insert(value);
            }
        }
    }
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
}

/// An argument of a handler.
pub trait Takes {
    fn describe(sketch: &mut Sketch);
}

/// What a handler answers.
pub trait Answers {
    fn describe(sketch: &mut Sketch);
}

/// A handler, described by its arguments `D` and its answer.
pub trait Described<D> {
    fn describe(sketch: &mut Sketch);
}

macro_rules! described {
    ($($argument:ident)*) => {
        impl<F, Fut, R, $($argument,)*> Described<($($argument,)*)> for F
        where
            F: Fn($($argument,)*) -> Fut,
            Fut: Future<Output = R>,
            R: Answers,
            $($argument: Takes,)*
        {
            fn describe(sketch: &mut Sketch) {
                $($argument::describe(sketch);)*
                R::describe(sketch);
            }
        }
    };
}

described!();
described!(A1);
described!(A1 A2);
described!(A1 A2 A3);
described!(A1 A2 A3 A4);
described!(A1 A2 A3 A4 A5);
described!(A1 A2 A3 A4 A5 A6);
described!(A1 A2 A3 A4 A5 A6 A7);
described!(A1 A2 A3 A4 A5 A6 A7 A8);

impl<S> Takes for State<S> {
    fn describe(_: &mut Sketch) {}
}

/// What the door and the guard put there: no part of the request.
impl<T> Takes for Extension<T> {
    fn describe(_: &mut Sketch) {}
}

impl<T> Takes for Option<Extension<T>> {
    fn describe(_: &mut Sketch) {}
}

impl Takes for HeaderMap {
    fn describe(_: &mut Sketch) {}
}

impl<T: JsonSchema> Takes for Path<T> {
    fn describe(sketch: &mut Sketch) {
        let schema = sketch.input_of::<T>();
        match schema["prefixItems"].as_array() {
            Some(parts) => sketch.path.extend(parts.iter().cloned()),
            None => sketch.path.push(schema),
        }
    }
}

impl<T: JsonSchema> Takes for Query<T> {
    fn describe(sketch: &mut Sketch) {
        let schema = sketch.input_of::<T>();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            sketch.query(name, required.iter().any(|one| one == name), schema.clone());
        }
    }
}

impl<T: JsonSchema> Takes for Json<T> {
    fn describe(sketch: &mut Sketch) {
        let schema = sketch.input_of::<T>();
        sketch.body = Some(BodySketch { media: "application/json", schema, required: true });
    }
}

impl<T: JsonSchema> Takes for Result<Json<T>, JsonRejection> {
    fn describe(sketch: &mut Sketch) {
        <Json<T> as Takes>::describe(sketch);
    }
}

/// A body of JSON that may be left out.
#[derive(Debug, Clone)]
pub struct MaybeJson<T>(pub Option<T>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for MaybeJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body =
            Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::TooLarge, rejection.body_text()),
                _ => Problem::new(Code::BadRequest, rejection.body_text()),
            })?;
        if body.is_empty() {
            return Ok(Self(None));
        }
        serde_json::from_slice(&body).map(|body| Self(Some(body))).map_err(|error| {
            let code = if error.is_data() { Code::BadBody } else { Code::BadJson };
            Problem::new(code, error.to_string())
        })
    }
}

impl<T: JsonSchema> Takes for MaybeJson<T> {
    fn describe(sketch: &mut Sketch) {
        let schema = sketch.input_of::<T>();
        sketch.body = Some(BodySketch { media: "application/json", schema, required: false });
    }
}

impl Takes for Bytes {
    fn describe(sketch: &mut Sketch) {
        sketch.body =
            Some(BodySketch { media: "application/octet-stream", schema: json!({}), required: true });
    }
}

impl Takes for Result<Bytes, BytesRejection> {
    fn describe(sketch: &mut Sketch) {
        <Bytes as Takes>::describe(sketch);
    }
}

impl Takes for Body {
    fn describe(sketch: &mut Sketch) {
        <Bytes as Takes>::describe(sketch);
    }
}

impl Takes for Request {
    fn describe(sketch: &mut Sketch) {
        <Bytes as Takes>::describe(sketch);
    }
}

impl<T: JsonSchema> Answers for Json<T> {
    fn describe(sketch: &mut Sketch) {
        sketch.answer = Some(sketch.output_of::<T>());
    }
}

impl<T: Answers> Answers for (StatusCode, T) {
    fn describe(sketch: &mut Sketch) {
        T::describe(sketch);
    }
}

impl Answers for StatusCode {
    fn describe(_: &mut Sketch) {}
}

/// `Doc::media` says what it is.
impl Answers for Response {
    fn describe(sketch: &mut Sketch) {
        sketch.answer = Some(Schema::default().to_value());
    }
}

impl<T: Answers> Answers for Result<T, Problem> {
    fn describe(sketch: &mut Sketch) {
        T::describe(sketch);
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Ask {
        /// How many.
        limit: Option<u32>,
        filter: String,
    }

    #[test]
    fn a_handler_tells_what_it_takes() {
        async fn handler(
            _: State<()>,
            _: Path<(String, u64)>,
            _: Query<Ask>,
            _: Json<Ask>,
        ) -> Result<Json<String>, Problem> {
            Ok(Json(String::new()))
        }
        fn sketched<H: Described<D>, D>(_: H) -> Sketch {
            let mut sketch = Sketch::new();
            H::describe(&mut sketch);
            sketch
        }
        let sketch = sketched(handler);
        assert_eq!((&sketch.path[0]["type"], &sketch.path[1]["type"]), (&json!("string"), &json!("integer")));
        assert_eq!(sketch.parameters.len(), 2);
        let limit = sketch.parameters.iter().find(|one| one["name"] == "limit").unwrap();
        assert_eq!((&limit["schema"]["type"], &limit["required"]), (&json!("integer"), &json!(false)));
        assert_eq!(limit["description"], "How many.");
        let body = sketch.body.unwrap();
        assert_eq!((body.media, &body.schema["required"]), ("application/json", &json!(["filter"])));
        assert_eq!(sketch.answer.unwrap()["type"], "string");
        assert!(!sketch.changes);
    }
}
