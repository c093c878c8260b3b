//! Who may what: the users of a server, their tokens, and what is not for them (the paper's three kinds of users, R1-36 and R1-37).
//!
//! ```yaml
//! users:
//!   ada:   { role: provider, token_hash: 5d4b… }        # BLAKE3 of the token, in hexadecimal: printf %s TOKEN | b3sum
//!   alice: { token: …, sees: [ada] }                    # or the token itself, in a file that only its owner can read
//!   shop:  { role: reseller, token: …, sees: [alice, bob], changes: [bob], allow: [Action] }
//! deny:
//!   user: [CPUPercent, "aggregator#Expression", "http://example.com/occi/monitoring/publisher#Log"]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::model::TypeId;
use super::registry::Registry;
use crate::model::name::service_name_problem;

/// How long a token is at least, in bytes; one that can be guessed is none.
const SHORTEST: usize = 16;

/// Mixins with which a client would do here what the native API allows to operators only; to others than providers they must be allowed.
const ONLY_PROVIDERS: [&str; 1] = ["publisher#Action"];

/// One of the three kinds of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees and changes everything.
    Provider,
    /// Sees and changes what is their own.
    #[default]
    User,
    /// A user who may be allowed to change what others own.
    Reseller,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::User => "user",
            Self::Reseller => "reseller",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    users: BTreeMap<String, Entry>,
    #[serde(default)]
    deny: BTreeMap<Role, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    role: Role,
    token: Option<String>,
    token_hash: Option<String>,
    #[serde(default)]
    sees: BTreeSet<String>,
    #[serde(default)]
    changes: BTreeSet<String>,
    #[serde(default)]
    deny: Vec<String>,
    #[serde(default)]
    allow: Vec<String>,
}

/// A user.
#[derive(Debug, PartialEq, Eq)]
struct User {
    name: Arc<str>,
    role: Role,
    /// Of the token. It compares in constant time.
    hash: Hidden,
    sees: BTreeSet<String>,
    changes: BTreeSet<String>,
    denied: Vec<Pattern>,
}

/// The hash of a token; never printed.
#[derive(PartialEq, Eq)]
struct Hidden(blake3::Hash);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// Which categories a word means: all of the term `Ping`, `metric#Ping` whoever's it is, or one identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(String);

impl Pattern {
    fn matches(&self, id: &TypeId) -> bool {
        let Self(word) = self;
        match word.split_once('#') {
            _ if word.contains("://") => id.as_str() == word,
            Some(_) => id.as_str().strip_suffix(word.as_str()).is_some_and(|rest| rest.ends_with('/')),
            None => id.term() == word,
        }
    }
}

/// All users of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users {
    all: BTreeMap<String, Arc<User>>,
    /// The names of categories in `deny` and `allow`.
    words: BTreeSet<String>,
    told: bool,
}

impl Users {
    /// Reads a file of users.
    ///
    /// # Errors
    /// A sentence: what is wrong in it, and what would be right; never a token.
    pub fn parse(text: &str) -> Result<Self, String> {
        let options = serde_saphyr::options! { strict_booleans: true };
        // The excerpt of the reader could show a token.
        let file: File = serde_saphyr::from_str_with_options(text, options)
            .map_err(|why| why.without_snippet().to_string())?;
        if file.users.is_empty() {
            return Err("`users` is empty, and nobody could do anything; expected at least a provider".into());
        }
        let names: BTreeSet<String> = file.users.keys().cloned().collect();
        let own = file.users.values().flat_map(|entry| entry.deny.iter().chain(&entry.allow));
        let words: BTreeSet<String> = file.deny.values().flatten().chain(own).cloned().collect();
        if words.iter().any(|word| word.trim().is_empty()) {
            return Err(
                "`deny` or `allow` has an empty name; expected that of a category, such as CPUPercent".into(),
            );
        }
        let mut all = BTreeMap::new();
        let mut told = false;
        for (name, entry) in file.users {
            let wrong = |why: String| format!("the user `{name}`: {why}");
            if let Some(why) = service_name_problem(&name) {
                return Err(wrong(why));
            }
            told |= entry.token.is_some();
            let user = entry.user(&name, &names, &file.deny).map_err(wrong)?;
            if all.values().any(|other: &Arc<User>| other.hash == user.hash) {
                return Err(format!(
                    "the user `{name}` has the token of another; each needs one of their own"
                ));
            }
            all.insert(name, Arc::new(user));
        }
        Ok(Self { all, words, told })
    }

    /// The names in `deny` and `allow` that mean no category that there is. One may come: with a plug-in, or from a client.
    pub fn unknown<'a>(&'a self, registry: &'a Registry) -> impl Iterator<Item = &'a str> {
        let words = self.words.iter().map(String::as_str);
        words.filter(|word| {
            let pattern = Pattern((*word).to_string());
            !registry.categories().any(|category| pattern.matches(category.id()))
        })
    }

    /// Whether tokens themselves stand in the file, which nobody else may read then.
    pub fn tells_tokens(&self) -> bool {
        self.told
    }

    /// Who sends a request with this `Authorization`: `Bearer TOKEN`, or `Basic` with the name and the token.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn who(&self, authorization: Option<&str>) -> Result<Who, String> {
        let expected = "send `authorization: Bearer TOKEN`, or Basic with your name and your token";
        let Some(text) = authorization else { return Err(format!("it is not known who asks; {expected}")) };
        let unknown = || format!("the name or the token is not known here; {expected}");
        let (scheme, rest) = text.trim().split_once(' ').ok_or_else(unknown)?;
        let of = |token: &str| Hidden(blake3::hash(token.as_bytes()));
        let found = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => {
                let hash = of(rest.trim());
                // All of them, so that the time says nothing.
                self.all.values().fold(None, |found, user| if user.hash == hash { Some(user) } else { found })
            }
            "basic" => {
                let text = base64(rest.trim())
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .ok_or_else(unknown)?;
                let (name, token) = text.split_once(':').ok_or_else(unknown)?;
                self.all.get(name).filter(|user| user.hash == of(token))
            }
            _ => None,
        };
        found.map(|user| Who(Some(user.clone()))).ok_or_else(unknown)
    }

    /// A user by name; of the server itself.
    pub fn named(&self, name: &str) -> Option<Who> {
        self.all.get(name).map(|user| Who(Some(user.clone())))
    }
}

impl Entry {
    fn user(
        self,
        name: &str,
        names: &BTreeSet<String>,
        deny: &BTreeMap<Role, Vec<String>>,
    ) -> Result<User, String> {
        let hash = match (&self.token, &self.token_hash) {
            (Some(token), None) if token.len() >= SHORTEST && !token.contains(char::is_whitespace) => {
                blake3::hash(token.as_bytes())
            }
            (Some(_), None) => {
                return Err(format!(
                    "the token is too short or has spaces; expected {SHORTEST} random characters or more"
                ));
            }
            (None, Some(hash)) => blake3::Hash::from_hex(hash.trim()).map_err(|_| {
                "`token_hash` is no BLAKE3 in hexadecimal; `printf %s TOKEN | b3sum` makes one".to_string()
            })?,
            _ => return Err("expected either `token` or `token_hash`".into()),
        };
        if let Some(other) = self.sees.iter().chain(&self.changes).find(|other| !names.contains(*other)) {
            return Err(format!("there is no user `{other}`; `sees` and `changes` name users of this file"));
        }
        if !self.changes.is_empty() && self.role != Role::Reseller {
            let word = self.role.word();
            return Err(format!(
                "`changes` is for resellers, and the role is {word}; expected `sees`, or another role"
            ));
        }
        if self.role == Role::Provider
            && !(self.sees.is_empty() && self.deny.is_empty() && self.allow.is_empty())
        {
            return Err("a provider sees and may everything; leave `sees`, `deny` and `allow` out".into());
        }
        let of_role = deny.get(&self.role).into_iter().flatten().cloned();
        let by_default = ONLY_PROVIDERS.iter().map(ToString::to_string);
        let general: Vec<String> =
            if self.role == Role::Provider { Vec::new() } else { of_role.chain(by_default).collect() };
        let allowed = |word: &String| {
            let term = |word: &str| word.rsplit('#').next().unwrap_or_default().to_string();
            self.allow.iter().any(|allow| allow == word || *allow == term(word))
        };
        let denied = general.into_iter().filter(|word| !allowed(word)).chain(self.deny.iter().cloned());
        Ok(User {
            denied: denied.map(Pattern).collect(),
            name: name.into(),
            role: self.role,
            hash: Hidden(hash),
            sees: self.sees,
            changes: self.changes,
        })
    }
}

/// Who sends a request. Without users it is anybody, who may everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Who(Option<Arc<User>>);

impl Who {
    /// The name, if there are users.
    pub fn name(&self) -> Option<&Arc<str>> {
        self.0.as_ref().map(|user| &user.name)
    }

    /// Whether nothing is out of reach.
    pub fn may_everything(&self) -> bool {
        self.0.as_ref().is_none_or(|user| user.role == Role::Provider)
    }

    /// Whether what somebody owns is there for them. What was made without users is nobody's, and the provider's.
    pub fn sees(&self, owner: Option<&str>) -> bool {
        let granted = |user: &User, owner: &str| user.sees.contains(owner) || user.changes.contains(owner);
        self.own(owner, granted)
    }

    /// Whether they may change what somebody owns.
    pub fn changes(&self, owner: Option<&str>) -> bool {
        self.own(owner, |user, owner| user.changes.contains(owner))
    }

    fn own(&self, owner: Option<&str>, granted: impl Fn(&User, &str) -> bool) -> bool {
        match &self.0 {
            Some(user) if user.role != Role::Provider => {
                owner.is_some_and(|owner| *owner == *user.name || granted(user, owner))
            }
            _ => true,
        }
    }

    /// Whether a category is not for them, or one that it depends on or is derived from.
    pub fn is_denied(&self, registry: &Registry, id: &TypeId) -> bool {
        let Some(user) = self.0.as_ref().filter(|user| !user.denied.is_empty()) else { return false };
        let denied = |id: &TypeId| user.denied.iter().any(|pattern| pattern.matches(id));
        denied(id)
            || registry.dependencies(id).iter().any(|mixin| denied(&mixin.id))
            || registry.ancestors(id).iter().any(|kind| denied(&kind.id))
    }

    /// Whether some categories are not for them.
    pub fn lacks_categories(&self) -> bool {
        self.0.as_ref().is_some_and(|user| !user.denied.is_empty())
    }
}

/// The bytes of a text in base 64 (RFC 4648).
fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut kept, mut bits) = (0_u32, 0);
    for byte in digits.bytes() {
        kept = kept << 6 | u32::from(digit(byte)?);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((kept >> bits & 0xff) as u8);
            kept &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::registry::Extension;
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn users(text: &str) -> Users {
        Users::parse(text).expect("a file of users")
    }

    /// Requirement: R1-36
    #[test]
    fn a_token_and_a_name_with_a_token_say_who_it_is() {
        let hash = blake3::hash(b"fedcba9876543210").to_hex();
        let users = users(&format!(
            "users: {{ a: {{ token: {TOKEN} }}, b: {{ role: provider, token_hash: {hash} }} }}"
        ));
        let who = |text: &str| users.who(Some(text)).map(|who| who.name().unwrap().to_string());
        assert_eq!(who(&format!("Bearer {TOKEN}")), Ok("a".into()));
        assert_eq!(who("bearer fedcba9876543210"), Ok("b".into()));
        assert_eq!(who("Basic YTowMTIzNDU2Nzg5YWJjZGVm"), Ok("a".into()));
        assert_eq!(who("Basic YjowMTIzNDU2Nzg5YWJjZGVm"), Err(users.who(Some("x")).unwrap_err()));
        for wrong in ["Bearer", "Bearer x", "Basic ***", "Basic YQ==", "Digest x", ""] {
            assert!(who(wrong).is_err(), "{wrong}");
        }
        assert!(users.who(None).unwrap_err().contains("Bearer TOKEN"));
        assert!(!format!("{users:?}").contains(TOKEN) && !format!("{users:?}").contains(hash.as_str()));
        assert!(users.tells_tokens());
    }

    /// Requirement: R1-36
    #[test]
    fn what_is_wrong_in_a_file_of_users_is_said_without_tokens() {
        for (text, said) in [
            ("users: {}", "at least a provider"),
            ("users: { a: { token: short } }", "too short"),
            ("users: { a: { role: king, token: 0123456789abcdef } }", "king"),
            ("users: { a: {} }", "either `token` or `token_hash`"),
            ("users: { a: { token_hash: 00 } }", "b3sum"),
            ("users: { 'a b': { token: 0123456789abcdef } }", "a b"),
            ("users: { a: { token: 0123456789abcdef, sees: [b] } }", "no user `b`"),
            ("users: { a: { token: 0123456789abcdef, changes: [a] } }", "for resellers"),
            ("users: { a: { token: 0123456789abcdef }, b: { token: 0123456789abcdef } }", "token of another"),
            ("users: { a: { token: 0123456789abcdef, tokne: 1 } }", "tokne"),
            ("users: { a: { role: provider, token: 0123456789abcdef, deny: [x] } }", "a provider sees"),
        ] {
            let why = Users::parse(text).unwrap_err();
            assert!(why.contains(said) && !why.contains(TOKEN), "{why}");
        }
    }

    /// Requirement: R1-37
    #[test]
    fn what_is_denied_is_so_by_term_by_stage_and_by_identifier_unless_somebody_is_allowed() {
        let users = users(
            "users:
  a: { token: aaaaaaaaaaaaaaaa }
  b: { token: bbbbbbbbbbbbbbbb, role: reseller, allow: [Action], deny: ['http://x.example/y#Z'] }
  c: { token: cccccccccccccccc, allow: [CPUPercent] }
  p: { token: pppppppppppppppp, role: provider }
deny: { user: [CPUPercent, 'aggregator#EWMA'] }
",
        );
        let registry = Registry::new(&Extension::ALL);
        let denied =
            |name: &str, id: &str| users.named(name).unwrap().is_denied(&registry, &id.parse().unwrap());
        let of = |stage: &str| format!("http://example.com/occi/monitoring/{stage}");
        assert!(denied("a", &of("metric#CPUPercent")) && !denied("c", &of("metric#CPUPercent")));
        assert!(denied("c", &of("aggregator#EWMA")) && !denied("a", &of("metric#EWMA")));
        assert!(denied("a", &of("publisher#Action")) && !denied("b", &of("publisher#Action")));
        assert!(denied("b", "http://x.example/y#Z") && !denied("b", "http://z.example/y#Z"));
        assert!(!denied("p", &of("publisher#Action")) && !denied("b", &of("metric#CPUPercent")));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back_and_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40), text in ".{0,20}") {
            let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            let mut encoded = String::new();
            for part in bytes.chunks(3) {
                let number = part.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - part.len()));
                for place in 0..4 {
                    let digit = digits[(number >> (18 - 6 * place) & 63) as usize];
                    encoded.push(if place <= part.len() { char::from(digit) } else { '=' });
                }
            }
            prop_assert_eq!(base64(&encoded), Some(bytes));
            let _ = base64(&text);
        }
    }
}
