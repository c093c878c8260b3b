//! Whatever is rendered is read as the same, in every rendering; and nothing that is sent makes a reader panic.

use homeostat::dialects::occi::draft::{DraftLink, coerce};
use homeostat::dialects::occi::model::{CORE, is_attribute_name};
use homeostat::dialects::occi::text::{self, Fields};
use homeostat::dialects::occi::{
    Action, Attribute, AttributeType, Attributes, Category, Document, Draft, End, Entity, Extension, Input,
    Invocation, Kind, MediaType, Mixin, Output, Registry, Rendering, TypeId, Values, Version, What, json,
    xml,
};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Text with all that has a meaning in some rendering.
fn any_text() -> impl Strategy<Value = String> {
    let special = "\"\\,;=<>{}&' \t\n\r\u{0}\u{1b}\u{7f}\u{85}#:?äß漢🦀u00041";
    let special: Vec<char> = special.chars().collect();
    vec(prop_oneof![3 => proptest::sample::select(special), 2 => any::<char>(), 2 => proptest::char::range('a', 'z')], 0..12)
        .prop_map(|chars| chars.into_iter().collect())
}

/// Text that XML can carry.
fn xml_text(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)).collect()
}

fn type_id() -> impl Strategy<Value = TypeId> {
    ("[a-z]{1,4}://[a-zA-Z0-9./~=&?%é:-]{1,10}#", "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,6}")
        .prop_map(|(scheme, term)| TypeId::new(&scheme, &term).unwrap())
}

fn type_ids() -> impl Strategy<Value = Vec<TypeId>> {
    vec(type_id(), 0..3)
}

fn place() -> impl Strategy<Value = String> {
    prop_oneof![
        "/[a-z0-9/_~.;,=&%-]{0,10}",
        "http://[a-z.]{1,8}(:[0-9]{1,4})?/[a-zA-Z0-9/,;=?é-]{0,8}",
        "urn:uuid:[0-9a-f]{4}"
    ]
}

/// The first letter of a name says which type its values have.
fn typed(name: &str) -> Attribute {
    let kind = match name.as_bytes().first() {
        Some(b'n') => AttributeType::Number,
        Some(b'b') => AttributeType::Boolean,
        Some(b'l') => AttributeType::Array,
        Some(b'm') => AttributeType::Object,
        _ => AttributeType::String,
    };
    Attribute::of(kind)
}

fn number() -> impl Strategy<Value = Value> {
    let float = any::<f64>().prop_filter("JSON has no such number", |f| f.is_finite());
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        float.prop_map(Value::from)
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        any_text().prop_map(Value::from)
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            btree_map(any_text(), inner, 0..3).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn values() -> impl Strategy<Value = Values> {
    let pair = prop_oneof![
        ("s[A-Za-z_-]{0,3}(\\.[A-Za-z0-9_-]{1,5}){0,3}", any_text().prop_map(Value::from)),
        ("n[a-z]{0,3}(\\.[A-Za-z0-9_-]{1,5}){0,3}", number()),
        ("b[a-z]{0,3}(\\.[A-Za-z0-9_-]{1,5}){0,3}", any::<bool>().prop_map(Value::from)),
        ("l[a-z]{0,3}(\\.[A-Za-z0-9_-]{1,5}){0,3}", vec(any_json(), 0..3).prop_map(Value::from)),
        (
            "m[a-z]{0,3}(\\.[A-Za-z0-9_-]{1,5}){0,3}",
            btree_map(any_text(), any_json(), 0..3).prop_map(|m| Value::Object(m.into_iter().collect()))
        ),
    ];
    vec(pair, 0..6).prop_map(|pairs| pairs.into_iter().collect())
}

fn end() -> impl Strategy<Value = End> {
    (place(), of(type_id())).prop_map(|(location, kind)| End { location, kind })
}

prop_compose! {
    fn bare()(
        id in "urn:uuid:[0-9a-f]{8}", location in place(), kind in type_id(), mixins in type_ids(), attributes in values(),
        title in of(any_text()), actions in type_ids(), what in (end(), end()),
    ) -> Entity {
        let what = What::Link { source: what.0, target: what.1 };
        Entity { id, location, kind, mixins, attributes, title, summary: None, actions, what }
    }
}

fn entity() -> impl Strategy<Value = Entity> {
    let resource = (bare(), vec(bare(), 0..3), of(any_text())).prop_map(|(entity, links, summary)| Entity {
        what: What::Resource { links },
        summary,
        ..entity
    });
    prop_oneof![bare(), resource]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let kind = proptest::sample::select(AttributeType::ALL.to_vec());
    let attribute = (kind, any::<bool>(), any::<bool>(), of(any_text()), any::<bool>()).prop_map(
        |(kind, mutable, required, description, bounded)| {
            let default = description.is_some().then(|| sample(kind));
            let pattern = bounded.then(|| match kind {
                AttributeType::Number => json!({"type": "integer", "minimum": 1, "maximum": 7.5}),
                _ => json!({"enum": [sample(kind)]}),
            });
            let description = description.filter(|d| !d.is_empty());
            Attribute { kind, or: None, mutable, required, pattern, default, description }
        },
    );
    btree_map("[a-z]{1,5}(\\.[A-Za-z0-9_-]{1,5}){0,2}", attribute, 0..4)
}

fn sample(kind: AttributeType) -> Value {
    match kind {
        AttributeType::String => "a \"b\", c; <d> &".into(),
        AttributeType::Number => 5.into(),
        AttributeType::Boolean => true.into(),
        AttributeType::Array => json!([1, "a"]),
        AttributeType::Object => json!({"a": {"b": 1}}),
    }
}

fn category() -> impl Strategy<Value = Category> {
    (type_id(), of(any_text()), type_ids(), type_ids(), attributes(), type_ids(), of(place()), 0..3).prop_map(
        |(id, title, depends, applies, attributes, actions, location, class)| match class {
            0 => {
                let parent = depends.into_iter().next();
                Category::Kind(Kind { id, title, parent, attributes, actions, location })
            }
            1 => {
                let user_defined = false;
                Category::Mixin(Mixin {
                    id,
                    title,
                    depends,
                    applies,
                    attributes,
                    actions,
                    location,
                    user_defined,
                })
            }
            _ => Category::Action(Action { id, title, attributes }),
        },
    )
}

/// Gives every value the type that its name says.
fn typed_values(values: &mut Values) {
    let described: Vec<(String, Attribute)> = values.keys().map(|n| (n.clone(), typed(n))).collect();
    coerce(values, |name| described.iter().find(|(n, _)| n == name).map(|(_, a)| a));
}

fn typed_draft(mut draft: Draft) -> Draft {
    typed_values(&mut draft.attributes);
    for link in &mut draft.links {
        if let DraftLink::Whole(link) = link {
            typed_values(&mut link.attributes);
        }
    }
    draft
}

/// What the text renderings tell of an entity: not its own place, and of links within it neither source nor actions.
fn told_in_text(entity: &Entity) -> Draft {
    let mut draft = Draft { location: None, ..Draft::from(entity) };
    for link in &mut draft.links {
        if let DraftLink::Whole(link) = link {
            (link.source, link.actions) = (None, Vec::new());
            let kind = &mut link.target.as_mut().unwrap().kind;
            kind.get_or_insert_with(|| TypeId::new(CORE, "resource").unwrap());
        }
    }
    draft
}

/// What XML can tell: text without the characters that it lacks.
fn told_in_xml(entity: &Entity) -> Entity {
    fn within(value: &Value) -> Value {
        match value {
            Value::String(text) => xml_text(text).into(),
            Value::Array(items) => items.iter().map(within).collect::<Vec<_>>().into(),
            Value::Object(map) => {
                map.iter().map(|(k, v)| (xml_text(k), within(v))).collect::<serde_json::Map<_, _>>().into()
            }
            other => other.clone(),
        }
    }
    let mut entity = entity.clone();
    entity.attributes.values_mut().for_each(|v| *v = within(v));
    entity.title = entity.title.as_deref().map(xml_text);
    entity.summary = entity.summary.as_deref().map(xml_text);
    if let What::Resource { links } = &mut entity.what {
        links.iter_mut().for_each(|l| *l = told_in_xml(l));
    }
    entity
}

/// What text tells of a category: of attributes whether they can be changed and are needed, of relations the first.
fn category_in_text(category: &Category) -> Category {
    let told = |attributes: &Attributes| {
        let told =
            |a: &Attribute| Attribute { mutable: a.mutable, required: a.required, ..Attribute::default() };
        attributes.iter().map(|(n, a)| (n.clone(), told(a))).collect()
    };
    match category.clone() {
        Category::Kind(k) => Category::Kind(Kind { attributes: told(&k.attributes), ..k }),
        Category::Mixin(m) => Category::Mixin(Mixin {
            attributes: told(&m.attributes),
            depends: m.depends.into_iter().take(1).collect(),
            applies: Vec::new(),
            ..m
        }),
        Category::Action(a) => Category::Action(Action { attributes: told(&a.attributes), ..a }),
    }
}

/// What is rendered, as a request.
fn sent(output: &Output, rendering: Rendering) -> Input<'_> {
    let headers = output.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    Input { rendering, headers, body: output.body.as_bytes() }
}

fn registry() -> Registry {
    Registry::new(&Extension::ALL)
}

const TEXTS: [Rendering; 2] = [Rendering::Plain, Rendering::Headers];

proptest! {
    /// Requirement: R1-25
    #[test]
    fn an_entity_is_read_from_text_as_it_was_rendered(entity in entity()) {
        for rendering in TEXTS {
            let output = Output::entity(MediaType::of(rendering), &entity).unwrap();
            let read = sent(&output, rendering).entity(&registry()).unwrap();
            prop_assert_eq!(typed_draft(read), told_in_text(&entity));
        }
    }

    /// Requirement: R1-25
    #[test]
    fn an_entity_is_read_from_json_as_it_was_rendered(entity in entity()) {
        let output = Output::entity(MediaType::of(Rendering::Json), &entity).unwrap();
        let read = json::entity(&output.body, &|name| name.starts_with('m')).unwrap();
        prop_assert_eq!(read, Draft::from(&entity));
    }

    #[test]
    fn an_entity_is_read_from_the_old_json_as_it_was_rendered(entity in entity()) {
        let mut entity = entity;
        // Nested, `m.a` of a link looks like the map `m` of its resource.
        if let What::Resource { links } = &mut entity.what {
            links.iter_mut().for_each(|l| l.attributes.clear());
        }
        let media = MediaType::of(Rendering::Json).for_version(Version::V1_1);
        let output = Output::entity(media, &entity).unwrap();
        let read = json::entity(&output.body, &|name| entity.attributes.contains_key(name)).unwrap();
        let mut told = Draft::from(&entity);
        for end in ends(&mut told) {
            end.kind = None;
        }
        prop_assert_eq!(read, told);
    }

    /// Requirement: R1-25
    #[test]
    fn an_entity_is_read_from_xml_as_it_was_rendered(entity in entity()) {
        let entity = told_in_xml(&entity);
        let output = Output::entity(MediaType::of(Rendering::Xml), &entity).unwrap();
        let read = xml::entity(&output.body).unwrap();
        prop_assert_eq!(typed_draft(read), Draft::from(&entity));
    }

    #[test]
    fn categories_are_read_from_text_as_they_were_rendered(categories in vec(category(), 1..4)) {
        let told: Vec<Category> = categories.iter().map(category_in_text).collect();
        for rendering in TEXTS {
            let output = Output::categories(MediaType::of(rendering), &categories, "");
            prop_assert_eq!(&sent(&output, rendering).categories(&registry()).unwrap(), &told);
        }
    }

    /// Requirement: R1-25
    #[test]
    fn categories_are_read_from_json_and_xml_as_they_were_rendered(categories in vec(category(), 1..4)) {
        let mut sorted: Document = Document::default();
        categories.iter().for_each(|c| sorted.push(c.clone()));
        let output = Output::categories(MediaType::of(Rendering::Json), &categories, "");
        let read = sent(&output, Rendering::Json).categories(&registry()).unwrap();
        prop_assert_eq!(read, sorted.categories().collect::<Vec<_>>());
        let plain = |c: &Category| {
            let of = |attributes: &Attributes| attributes.values().all(|a| a.description.iter().all(|d| xml_text(d) == *d));
            of(c.attributes()) && c.title().is_none_or(|t| xml_text(t) == t)
        };
        prop_assume!(categories.iter().all(plain));
        let output = Output::categories(MediaType::of(Rendering::Xml), &categories, "");
        let read = sent(&output, Rendering::Xml).categories(&registry()).unwrap();
        let (mut read, mut told) = (read, sorted.categories().collect::<Vec<_>>());
        // The words of a pattern have no order.
        for category in read.iter_mut().chain(&mut told) {
            for attribute in attributes_of(category).values_mut() {
                if let Some(Value::Object(words)) = &mut attribute.pattern {
                    words.sort_keys();
                }
            }
        }
        prop_assert_eq!(read, told);
    }

    #[test]
    fn a_collection_is_read_as_it_was_rendered(entities in vec(entity(), 0..4)) {
        let drafts = |link: bool| -> Vec<Draft> {
            entities.iter().map(Draft::from).filter(|d| d.is_link() == link).collect()
        };
        let output = Output::entities(MediaType::of(Rendering::Json), &entities, "");
        let read = json::document(&output.body, &|name| name.starts_with('m')).unwrap();
        prop_assert_eq!((read.resources, read.links), (drafts(false), drafts(true)));
        let places: Vec<String> = entities.iter().map(|e| e.location.clone()).collect();
        for rendering in [Rendering::Plain, Rendering::Headers, Rendering::UriList] {
            let output = Output::entities(MediaType::of(rendering), &entities, "");
            // Commas join the values of headers, and so places with commas are split there.
            if places.iter().all(|p| !p.contains([',', ';'])) || rendering == Rendering::UriList {
                prop_assert_eq!(&sent(&output, rendering).locations(&registry()).unwrap(), &places);
            }
        }
        let output = Output::locations(MediaType::of(Rendering::Json), places.iter().map(String::as_str), "");
        prop_assert_eq!(sent(&output, Rendering::Json).locations(&registry()).unwrap(), places);
    }

    #[test]
    fn the_call_of_an_action_is_read_as_it_was_rendered(action in type_id(), attributes in values()) {
        let mut call = Invocation { action, attributes };
        for rendering in TEXTS {
            let output = Output::invocation(MediaType::of(rendering), &call).unwrap();
            let mut read = sent(&output, rendering).invocation(&registry()).unwrap();
            typed_values(&mut read.attributes);
            prop_assert_eq!(&read, &call);
        }
        let output = Output::invocation(MediaType::of(Rendering::Json), &call).unwrap();
        prop_assert_eq!(&json::invocation(&output.body, &|n| n.starts_with('m')).unwrap(), &call);
        call.attributes.retain(|name, _| name.starts_with(['n', 'b']));
        let output = Output::invocation(MediaType::of(Rendering::Xml), &call).unwrap();
        let mut read = xml::invocation(&output.body).unwrap();
        typed_values(&mut read.attributes);
        prop_assert_eq!(&read, &call);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..80)) {
        read_everything(&bytes);
    }

    #[test]
    fn no_words_make_a_reader_panic(words in vec(proptest::sample::select(WORDS.to_vec()), 0..24)) {
        read_everything(words.concat().as_bytes());
    }

    #[test]
    fn what_is_read_from_nonsense_can_be_rendered_in_one_line_per_field(text in any_text()) {
        let line = format!("Category: a; scheme=\"http://a#\"; title={text}");
        if let Ok(fields) = Fields::of_text(&line) && let Ok(categories) = fields.categories() {
            for category in &categories {
                let (_, rendered) = text::category_line(category);
                prop_assert!(!rendered.contains(|c: char| c.is_control()));
            }
        }
    }
}

fn ends(draft: &mut Draft) -> Vec<&mut End> {
    let mut found: Vec<&mut End> = draft.source.iter_mut().chain(&mut draft.target).collect();
    for link in &mut draft.links {
        if let DraftLink::Whole(link) = link {
            found.extend(link.source.iter_mut().chain(&mut link.target));
        }
    }
    found
}

fn attributes_of(category: &mut Category) -> &mut Attributes {
    match category {
        Category::Kind(k) => &mut k.attributes,
        Category::Mixin(m) => &mut m.attributes,
        Category::Action(a) => &mut a.attributes,
    }
}

const WORDS: [&str; 48] = [
    "Category",
    "Link",
    "X-OCCI-Attribute",
    "X-OCCI-Location",
    ":",
    " ",
    ";",
    ",",
    "=",
    "\"",
    "\\",
    "\\\"",
    "<",
    ">",
    "/>",
    "\r\n",
    "\n",
    "scheme",
    "class",
    "kind",
    "mixin",
    "rel",
    "self",
    "attributes",
    "{",
    "}",
    "{required}",
    "http://a#",
    "a",
    "b.c",
    "5",
    "-.e5",
    "true",
    "?action=",
    "[",
    "]",
    "null",
    "resources",
    "<resource>",
    "<link ",
    "id=\"a\"",
    "<occi:attribute",
    "é",
    "\\u00",
    "\\u000a",
    "&amp;",
    "\"a\":",
    "--",
];

fn read_everything(bytes: &[u8]) {
    let registry = registry();
    for rendering in
        [Rendering::Plain, Rendering::Headers, Rendering::UriList, Rendering::Json, Rendering::Xml]
    {
        for name in ["Category", "link", "x-occi-attribute", "X-OCCI-Location"] {
            let input = Input { rendering, headers: vec![(name, bytes)], body: bytes };
            let _ = (input.entity(&registry), input.document(&registry), input.invocation(&registry));
            let _ =
                (input.categories(&registry), input.locations(&registry), input.filter(), input.is_empty());
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = (text.parse::<TypeId>(), is_attribute_name(text), registry.by_location(text).is_some());
    }
}
