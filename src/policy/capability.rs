//! Discovery: references that name a capability get the services that provide it as candidates (R3-18, the registry of a service-oriented architecture).
//!
//! What was found becomes part of the compiled document, so that a record, which holds documents one by one, says all that its replay needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::compile::add_found;
use super::document::PackedDocument;
use super::set::CompiledFile;
use super::value::ServicePolicy;
use crate::model::calls::PortPolicy;

/// Capability → the services that provide it, in order.
type Providers<'a> = BTreeMap<&'a str, BTreeSet<&'a Arc<str>>>;

/// The files, by number, whose references lead elsewhere now than what is written in them, as they are now.
pub(crate) fn found<'a>(
    files: impl Iterator<Item = &'a Arc<CompiledFile>> + Clone,
) -> Vec<(usize, Arc<CompiledFile>)> {
    if !files.clone().any(|file| file.reach.capabilities) {
        return Vec::new();
    }
    let mut providers = Providers::new();
    for (_, service) in files.clone().flat_map(|file| &file.services) {
        for capability in &service.resource.provides {
            providers.entry(capability.as_str()).or_default().insert(&service.name);
        }
    }
    let users = files.enumerate().filter(|(_, file)| file.reach.capabilities);
    users.filter_map(|(number, file)| Some((number, in_file(file, &providers)?))).collect()
}

fn in_file(file: &CompiledFile, providers: &Providers<'_>) -> Option<Arc<CompiledFile>> {
    let mut next: Option<CompiledFile> = None;
    for (place, (number, service)) in file.services.iter().enumerate() {
        if let Some(service) = in_service(service, providers) {
            next.get_or_insert_with(|| file.clone()).services[place] = (*number, Arc::new(service));
        }
    }
    next.map(Arc::new)
}

fn in_service(service: &ServicePolicy, providers: &Providers<'_>) -> Option<ServicePolicy> {
    if service.references.values().all(|reference| reference.capability.is_none()) {
        return None;
    }
    // A document that was written by this program, so it can be read.
    let mut document = service.document.open().ok()?;
    let mut next = service.clone();
    let mut differs = false;
    for (name, reference) in &mut next.references {
        let (Some(capability), Some(declared)) =
            (&reference.capability, document.references.get_mut(&**name))
        else {
            continue;
        };
        let provided = providers.get(&**capability).into_iter().flatten();
        let now: Vec<String> = provided.filter(|p| **p != &service.name).map(ToString::to_string).collect();
        if declared.found == now {
            continue;
        }
        differs = true;
        declared.found = now;
        reference.candidates.clear();
        let named = declared.service.iter().chain(&declared.candidates).cloned().collect::<Vec<_>>();
        add_found(&mut reference.candidates, &named);
        add_found(&mut reference.candidates, &declared.found);
        let candidates = reference.candidates.clone();
        reference.calls = Arc::new(PortPolicy { candidates, ..(*reference.calls).clone() });
    }
    next.document = PackedDocument::new(&document);
    differs.then_some(next)
}

#[cfg(test)]
mod tests {
    use super::super::load::Sources;
    use super::super::set::PolicySet;

    const SHOP: &str = "service: shop\nreferences: { payment: { capability: pay, candidates: [house] } }\n---\nservice: house\n";

    fn set(files: &[(&str, &str)], previous: Option<&PolicySet>) -> PolicySet {
        PolicySet::from_sources(&Sources::from_texts(files.iter().copied()), previous).expect("a set").0
    }

    fn candidates(set: &PolicySet) -> Vec<&str> {
        set.services["shop"].references["payment"].candidates.iter().map(|c| &**c).collect()
    }

    /// Requirement: R3-18
    #[test]
    fn who_provides_a_capability_is_a_candidate_for_as_long_as_it_says_so() {
        let alone = set(&[("shop.yaml", SHOP)], None);
        assert_eq!(candidates(&alone), ["house"]);
        let pays = "service: gold\nprovides: [pay, refund]\n---\nservice: basic\nprovides: [pay]\n";
        let both = set(&[("shop.yaml", SHOP), ("pay.yaml", pays)], Some(&alone));
        assert_eq!(candidates(&both), ["house", "basic", "gold"]);
        assert!(both.services["shop"].document.as_json().contains(r#""found":["basic","gold"]"#));
        let again = set(&[("shop.yaml", SHOP), ("pay.yaml", pays)], Some(&both));
        assert!(std::sync::Arc::ptr_eq(&again.services["shop"], &both.services["shop"]));
        let one = set(&[("shop.yaml", SHOP), ("pay.yaml", "service: gold\nprovides: [pay]\n")], Some(&both));
        assert_eq!(candidates(&one), ["house", "gold"]);
        assert_eq!(candidates(&set(&[("shop.yaml", SHOP)], Some(&one))), ["house"]);
    }

    #[test]
    fn what_a_file_says_was_found_is_overwritten_and_nobody_provides_for_itself() {
        let file =
            "service: shop\nprovides: [pay]\nreferences: { payment: { capability: pay, found: [ghost] } }\n";
        assert!(candidates(&set(&[("shop.yaml", file)], None)).is_empty());
    }

    #[test]
    fn a_provider_that_does_not_say_where_it_listens_cannot_serve_a_port() {
        let shop = "service: shop\nreferences: { payment: { capability: pay, listen: 127.0.0.1:7101 } }\n";
        let files = [("shop.yaml", shop), ("pay.yaml", "service: gold\nprovides: [pay]\n")];
        let problems = PolicySet::from_sources(&Sources::from_texts(files), None).expect_err("no endpoint");
        assert_eq!(problems[0].code, "missing-endpoint");
        assert!(problems[0].message.contains("gold"), "{}", problems[0].message);
    }
}
