//! Users and groups, by name or number.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{reader::Reader, value};
use crate::policy::{Account, AccountName};

/// The users or groups that `key` holds, one or a list of them.
pub(super) fn parse_list(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    key: &str,
) -> Option<Vec<Account>> {
    let found = value(table, key)?;
    let Some(array) = found.get_ref().as_array() else {
        return parse(reader, found, key).map(|account| vec![account]);
    };
    if array.is_empty() {
        reader.error(
            found.span(),
            format!("`{key}` is empty"),
            "put at least one entry in it".to_owned(),
        );
    }
    let accounts: Vec<Account> = array
        .iter()
        .filter_map(|element| parse(reader, element, key))
        .collect();
    (!array.is_empty() && accounts.len() == array.len()).then_some(accounts)
}

fn parse(reader: &mut Reader<'_>, found: &Spanned<DeValue<'_>>, key: &str) -> Option<Account> {
    let noun = if key.starts_with("group") {
        "group"
    } else {
        "user"
    };
    let name = match found.get_ref() {
        DeValue::String(text) if text.trim().is_empty() => {
            let mend = format!("write the name of a {noun}, or its number");
            reader.error(found.span(), format!("`{key}` is empty"), mend);
            return None;
        }
        DeValue::String(text) if text.parse::<u32>().is_ok() => {
            reader.error(
                found.span(),
                format!("`{text}` in quotes is a name, not a number"),
                format!("write the number without quotes: `{key} = {text}`"),
            );
            return None;
        }
        DeValue::String(text) => AccountName::Name(text.clone().into_owned()),
        DeValue::Integer(written) => {
            let number = u32::from_str_radix(written.as_str(), written.radix())
                .ok()
                // The kernel keeps the highest number for nobody at all.
                .filter(|&number| number < u32::MAX);
            let Some(number) = number else {
                reader.error(
                    found.span(),
                    format!("`{}` is no number of a {noun}", written.as_str()),
                    "write a number from 0 to 4294967294, or a name".to_owned(),
                );
                return None;
            };
            AccountName::Number(number)
        }
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => {
            let mend = format!("write `{key} = \"NAME\"`, a number, or a list of them");
            reader.wrong_type(found, key, "a name or a number", &mend);
            return None;
        }
    };
    Some(Account {
        name,
        place: reader.place(found.span()),
    })
}
