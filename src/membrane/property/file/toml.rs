//! TOML: read, and one value changed where it stands; comments, order and spaces stay (`toml_edit`).

use serde_json::{Map, Value};
use toml_edit::{Array, DocumentMut, InlineTable, Item};

/// The document as JSON; dates and times are texts.
///
/// # Errors
/// What is malformed, in words.
pub(super) fn read(text: &str) -> Result<Value, String> {
    let document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| e.to_string())?;
    Ok(of_item(document.as_item()))
}

fn of_item(item: &Item) -> Value {
    match item {
        Item::None => Value::Null,
        Item::Value(value) => of_value(value),
        Item::Table(table) => {
            table.iter().map(|(name, item)| (name.to_string(), of_item(item))).collect::<Map<_, _>>().into()
        }
        Item::ArrayOfTables(tables) => tables.iter().map(|t| of_item(&Item::Table(t.clone()))).collect(),
    }
}

fn of_value(value: &toml_edit::Value) -> Value {
    use toml_edit::Value as T;
    match value {
        T::String(text) => text.value().as_str().into(),
        T::Integer(number) => (*number.value()).into(),
        T::Float(number) => serde_json::Number::from_f64(*number.value()).map_or(Value::Null, Value::Number),
        T::Boolean(yes) => (*yes.value()).into(),
        T::Datetime(time) => time.value().to_string().into(),
        T::Array(values) => values.iter().map(of_value).collect(),
        T::InlineTable(table) => {
            table.iter().map(|(name, v)| (name.to_string(), of_value(v))).collect::<Map<_, _>>().into()
        }
    }
}

/// The text with another value at a place; a last name that is not there is added.
///
/// # Errors
/// When there is no such place, or it is a table, or the value cannot be written in TOML.
pub(super) fn set(text: &str, path: &[String], new: &Value) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| e.to_string())?;
    let (last, parents) = path.split_last().ok_or("the whole document cannot be set; name a value in it")?;
    let mut place = document.as_item_mut();
    for name in parents {
        place = step(place, name).ok_or("it is not there")?;
    }
    match step(place, last) {
        Some(Item::Value(old)) => {
            // A reader that wants a float takes no integer.
            let float = old.is_float();
            let mut value = to_value(new, float)?;
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        Some(_) => return Err("it is a table; only single values can be set in place".into()),
        None => {
            let value = to_value(new, false)?;
            let table = place.as_table_like_mut().ok_or("it is not there")?;
            table.insert(last, Item::Value(value));
        }
    }
    Ok(document.to_string())
}

fn step<'a>(item: &'a mut Item, name: &str) -> Option<&'a mut Item> {
    if item.is_array_of_tables() || item.is_array() {
        let index: usize = name.parse().ok()?;
        return item.get_mut(index);
    }
    item.as_table_like_mut()?.get_mut(name)
}

fn to_value(value: &Value, float: bool) -> Result<toml_edit::Value, String> {
    Ok(match value {
        Value::Null => return Err("TOML has no null".into()),
        Value::Bool(yes) => (*yes).into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) if !float => whole.into(),
            _ if number.is_u64() && !float => return Err(format!("{number} is too large for TOML")),
            _ => number.as_f64().ok_or("it is no number")?.into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(values) => {
            let values: Result<Vec<_>, String> = values.iter().map(|v| to_value(v, false)).collect();
            toml_edit::Value::Array(Array::from_iter(values?))
        }
        Value::Object(values) => {
            let mut table = InlineTable::new();
            for (name, value) in values {
                table.insert(name, to_value(value, false)?);
            }
            table.into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = "# of the shop\nname = 'x' # why\n\n[limits]\nrate   = 2.5 # per second\nat = 2026-01-02\nlist = [1, 2]\n\n[[pool]]\nsize = 4\n[[pool]]\nsize = 5\n";

    fn path(text: &str) -> Vec<String> {
        text.split('/').skip(1).map(str::to_string).collect()
    }

    #[test]
    fn comments_order_and_spaces_stay() {
        let read = read(TEXT).expect("TOML");
        assert_eq!(read["limits"], json!({ "rate": 2.5, "at": "2026-01-02", "list": [1, 2] }));
        assert_eq!(read["pool"], json!([{ "size": 4 }, { "size": 5 }]));
        let set = |place: &str, new: Value| set(TEXT, &path(place), &new);
        assert_eq!(set("/limits/rate", json!(3)), Ok(TEXT.replace("2.5", "3.0")));
        assert_eq!(set("/pool/1/size", json!(7)), Ok(TEXT.replace("size = 5", "size = 7")));
        assert_eq!(set("/limits/list", json!([3])), Ok(TEXT.replace("[1, 2]", "[3]")));
        assert_eq!(set("/limits/list/0", json!(9)), Ok(TEXT.replace("[1, 2]", "[9, 2]")));
        assert_eq!(set("/name", json!("it's")), Ok(TEXT.replace("'x'", "\"it's\"")));
        assert_eq!(set("/limits/new", json!(true)), Ok(TEXT.replace("[1, 2]\n", "[1, 2]\nnew = true\n")));
        assert!(set("/limits", json!({})).is_err_and(|why| why.contains("table")));
        assert!(set("/none/there", json!(1)).is_err());
        assert!(set("/name", Value::Null).is_err());
    }
}
