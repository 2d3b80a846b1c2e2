//! Kafka's message schemas: JSON with comment lines, as values.
//!
//! Invariant: a field's versions are already cut to those that its struct can occur in, so a field
//! that is always there says so.

use serde_json::Value;

use crate::Outcome;

/// An inclusive range of versions; empty if `min > max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub min: i16,
    pub max: i16,
}

impl Versions {
    const NONE: Versions = Versions { min: 0, max: -1 };

    fn parse(text: &str) -> Outcome<Versions> {
        let number = |text: &str| {
            text.parse::<i16>()
                .map_err(|_| format!("{text:?} where a version was expected"))
        };
        match text.split_once('-') {
            _ if text == "none" => Ok(Versions::NONE),
            Some((min, max)) => Ok(Versions {
                min: number(min)?,
                max: number(max)?,
            }),
            None => match text.strip_suffix('+') {
                Some(min) => Ok(Versions {
                    min: number(min)?,
                    max: i16::MAX,
                }),
                None => Ok(Versions {
                    min: number(text)?,
                    max: number(text)?,
                }),
            },
        }
    }

    pub fn is_empty(self) -> bool {
        self.min > self.max
    }

    pub fn and(self, other: Versions) -> Versions {
        Versions {
            min: self.min.max(other.min),
            max: self.max.min(other.max),
        }
    }
}

/// The type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// A number or bool, by its Rust name.
    Number(&'static str),
    Uuid,
    TopicId,
    Text,
    Bytes,
    Records,
    Struct(String),
    Array(Box<Type>),
}

/// A field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// As in the schema: `TopicName`.
    pub name: String,
    /// As in Rust: `topic_name`.
    pub rust: String,
    pub ty: Type,
    pub versions: Versions,
    /// The versions in which null is allowed.
    pub nullable: Versions,
    pub tag: Option<u32>,
    pub default: String,
    pub ignorable: bool,
}

impl Field {
    /// Whether the Rust type is an `Option`.
    pub fn optional(&self) -> bool {
        !self.nullable.is_empty()
    }
}

/// A struct: the message itself or one inside it.
#[derive(Clone, Debug)]
pub struct Struct {
    pub name: String,
    /// The versions of the message that it can occur in.
    pub versions: Versions,
    pub fields: Vec<Field>,
}

/// A request or a response.
#[derive(Clone, Debug)]
pub struct Message {
    pub name: String,
    pub api_key: i16,
    pub versions: Versions,
    pub flexible: Versions,
    /// The message itself, then every struct inside.
    pub structs: Vec<Struct>,
}

impl Message {
    /// Reads a schema.
    pub fn parse(text: &str) -> Outcome<Message> {
        let json: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        let json: Value = serde_json::from_str(&json).map_err(|e| e.to_string())?;
        let name = text_of(&json, "name")?.to_owned();
        let key = json["apiKey"]
            .as_i64()
            .and_then(|key| i16::try_from(key).ok());
        let mut message = Message {
            api_key: key.ok_or("no apiKey")?,
            versions: Versions::parse(text_of(&json, "validVersions")?)?,
            flexible: Versions::parse(text_of(&json, "flexibleVersions")?)?,
            name: name.clone(),
            structs: Vec::new(),
        };
        let versions = message.versions;
        message.add(&name, versions, &json["fields"])?;
        for common in json["commonStructs"].as_array().into_iter().flatten() {
            message.add(text_of(common, "name")?, versions, &common["fields"])?;
        }
        Ok(message)
    }

    /// The name of the Rust module.
    pub fn module(&self) -> String {
        snake(&self.name)
    }

    /// Whether a value of this type borrows from the frame.
    pub fn borrows(&self, ty: &Type) -> bool {
        match ty {
            Type::Number(_) | Type::Uuid | Type::TopicId => false,
            Type::Text | Type::Bytes | Type::Records | Type::Array(_) => true,
            Type::Struct(name) => self
                .structs
                .iter()
                .filter(|s| s.name == *name)
                .flat_map(|s| &s.fields)
                .any(|field| self.borrows(&field.ty)),
        }
    }

    fn add(&mut self, name: &str, versions: Versions, fields: &Value) -> Outcome {
        let at = self.structs.len();
        self.structs.push(Struct {
            name: name.to_owned(),
            versions,
            fields: Vec::new(),
        });
        for json in fields
            .as_array()
            .ok_or_else(|| format!("{name}: no fields"))?
        {
            let field = parse_field(json, versions).map_err(|e| format!("{name}: {e}"))?;
            if field.versions.is_empty() {
                continue;
            }
            if let Some(inner) = struct_name(&field.ty).filter(|_| json["fields"].is_array()) {
                self.add(inner, field.versions, &json["fields"])?;
            }
            self.structs[at].fields.push(field);
        }
        Ok(())
    }
}

fn parse_field(json: &Value, within: Versions) -> Outcome<Field> {
    let name = text_of(json, "name")?;
    let optional = |key| {
        json[key]
            .as_str()
            .map_or(Ok(Versions::NONE), Versions::parse)
    };
    let versions = Versions::parse(text_of(json, "versions")?)?.and(within);
    let tagged = optional("taggedVersions")?.and(within);
    let tag = json["tag"].as_u64().and_then(|tag| u32::try_from(tag).ok());
    // The generator writes "v < N" where a tagged field is missing.
    if !tagged.is_empty() && (tagged != versions || tagged.max != within.max) {
        return Err(format!(
            "{name} is tagged in some versions only: teach the generator"
        ));
    }
    if !json["flexibleVersions"].is_null() {
        return Err(format!(
            "{name} has flexible versions of its own: teach the generator"
        ));
    }
    let default = match &json["default"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let ty = parse_type(name, text_of(json, "type")?)?;
    if tag.is_some() && ty == Type::Records {
        return Err(format!(
            "{name}: records in a tagged field would need holes inside of tags"
        ));
    }
    Ok(Field {
        rust: snake(name),
        name: name.to_owned(),
        nullable: optional("nullableVersions")?.and(versions),
        tag: tag.filter(|_| !tagged.is_empty()),
        ignorable: json["ignorable"].as_bool().unwrap_or(false),
        ty,
        versions,
        default,
    })
}

fn parse_type(field: &str, text: &str) -> Outcome<Type> {
    if let Some(element) = text.strip_prefix("[]") {
        return Ok(Type::Array(Box::new(parse_type(field, element)?)));
    }
    Ok(match text {
        "bool" => Type::Number("bool"),
        "int8" => Type::Number("i8"),
        "int16" => Type::Number("i16"),
        "uint16" => Type::Number("u16"),
        "int32" => Type::Number("i32"),
        "uint32" => Type::Number("u32"),
        "int64" => Type::Number("i64"),
        "float64" => Type::Number("f64"),
        "uuid" if field.ends_with("TopicId") || field.ends_with("TopicIds") => Type::TopicId,
        "uuid" => Type::Uuid,
        "string" => Type::Text,
        "bytes" => Type::Bytes,
        "records" => Type::Records,
        name if name.starts_with(char::is_uppercase) => Type::Struct(name.to_owned()),
        other => return Err(format!("{field}: type {other:?} is not known")),
    })
}

fn struct_name(ty: &Type) -> Option<&str> {
    match ty {
        Type::Struct(name) => Some(name),
        Type::Array(element) => struct_name(element),
        _ => None,
    }
}

fn text_of<'j>(json: &'j Value, key: &str) -> Outcome<&'j str> {
    json[key].as_str().ok_or_else(|| format!("no {key}"))
}

/// `TopicName` to `topic_name`.
pub fn snake(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.char_indices() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    if out == "type" || out == "match" {
        out + "_"
    } else {
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(Versions::parse("3-13"), Ok(Versions { min: 3, max: 13 }));
        assert_eq!(
            Versions::parse("9+"),
            Ok(Versions {
                min: 9,
                max: i16::MAX
            })
        );
        assert_eq!(Versions::parse("0"), Ok(Versions { min: 0, max: 0 }));
        assert_eq!(Versions::parse("none").map(Versions::is_empty), Ok(true));
        assert!(Versions::parse("x").is_err());
    }

    #[test]
    fn a_schema_is_read_and_cut_to_its_versions() {
        let message = Message::parse(
            r#"
            // a comment, with "quotes"
            { "apiKey": 77, "name": "TestRequest", "validVersions": "2-5",
              "flexibleVersions": "4+", "fields": [
                { "name": "Gone", "type": "int8", "versions": "0-1" },
                { "name": "TopicNames", "type": "[]Inner", "versions": "3+", "fields": [
                    { "name": "Name", "type": "string", "versions": "0+",
                      "nullableVersions": "5+" } ] } ] }
            "#,
        )
        .unwrap();
        let [outer, inner] = &message.structs[..] else {
            panic!("{:?}", message.structs)
        };
        assert_eq!(outer.fields.len(), 1);
        assert_eq!(outer.fields[0].rust, "topic_names");
        assert_eq!(inner.versions, Versions { min: 3, max: 5 });
        assert_eq!(inner.fields[0].nullable, Versions { min: 5, max: 5 });
        assert!(message.borrows(&outer.fields[0].ty));
    }

    #[test]
    fn a_schema_that_the_generator_cannot_serve_is_refused() {
        let odd = |field: &str| {
            Message::parse(&format!(
                r#"{{ "apiKey": 1, "name": "X", "validVersions": "0-5", "flexibleVersions": "0+",
                      "fields": [ {field} ] }}"#
            ))
        };
        assert!(odd(r#"{ "name": "A", "type": "int7", "versions": "0+" }"#).is_err());
        assert!(
            odd(
                r#"{ "name": "A", "type": "int8", "versions": "0+", "taggedVersions": "2+",
                     "tag": 0 }"#
            )
            .is_err()
        );
    }
}
