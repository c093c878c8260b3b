//! Two sorted maps side by side, where most values are the same allocation: what differs is found in one pass.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A key with its values before and after.
pub(crate) type Difference<'a, K, V> = (&'a K, Option<&'a Arc<V>>, Option<&'a Arc<V>>);

/// The keys whose values are not the same allocation in both, sorted. Linear; nothing is looked up, and no shared value is looked into.
pub(crate) fn differing<'a, K: Ord, V>(
    old: &'a Arc<BTreeMap<K, Arc<V>>>,
    new: &'a Arc<BTreeMap<K, Arc<V>>>,
) -> Vec<Difference<'a, K, V>> {
    let mut found = Vec::new();
    if Arc::ptr_eq(old, new) {
        return found;
    }
    let (mut before, mut after) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let was = before.next_if(|_| order.is_le());
        let is = after.next_if(|_| order.is_ge());
        match (was, is) {
            (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b) => {}
            (a, b) => found
                .extend(a.or(b).map(|(key, _)| (key, a.map(|(_, value)| value), b.map(|(_, value)| value)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_one_map_or_different_in_both_is_found_in_order() {
        let kept = Arc::new(0);
        let map = |entries: &[(&'static str, i32)]| {
            let mut map: BTreeMap<_, _> = entries.iter().map(|(k, v)| (*k, Arc::new(*v))).collect();
            map.insert("kept", kept.clone());
            Arc::new(map)
        };
        let (old, new) = (map(&[("a", 1), ("b", 2), ("z", 3)]), map(&[("b", 4), ("c", 5)]));
        let found: Vec<_> = differing(&old, &new)
            .into_iter()
            .map(|(key, was, is)| (*key, was.map(|v| **v), is.map(|v| **v)))
            .collect();
        assert_eq!(
            found,
            [("a", Some(1), None), ("b", Some(2), Some(4)), ("c", None, Some(5)), ("z", Some(3), None)]
        );
        assert!(differing(&old, &old).is_empty());
    }
}
