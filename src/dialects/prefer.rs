//! What clients prefer (RFC 7240).

use std::time::Duration;

use axum::http::HeaderMap;

/// The time that `Prefer: wait=SECONDS` asks for, in any of the `Prefer` headers.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let seconds = preferences.flat_map(|value| value.split([',', ';'])).find_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        let wait = name.trim().eq_ignore_ascii_case("wait");
        wait.then(|| value.trim().trim_matches('"').parse::<u64>().ok()).flatten()
    })?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_found_in_any_header_and_among_others() {
        let asked = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("prefer", value.parse().unwrap());
            }
            wait(&headers)
        };
        let three = Some(Duration::from_secs(3));
        for values in [
            &["wait=3"][..],
            &["respond-async, wait=3"],
            &["return=minimal", "Wait = \"3\""],
            &["handling=lenient; wait=3"],
        ] {
            assert_eq!(asked(values), three, "{values:?}");
        }
        for values in [&[][..], &["wait"], &["wait=soon"], &["await=3"], &["wait=-3"]] {
            assert_eq!(asked(values), None, "{values:?}");
        }
    }
}
