//! Where servers said that they speak HTTP/3 (RFC 7838).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, header};
use tokio::time::Instant;

use super::target::Target;

/// Servers that are remembered; the one that expires first makes room.
const MAX_SERVERS: usize = 256;

/// How long an announcement holds that does not say so (section 3.1), and at most.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long nobody tries again where HTTP/3 did not work (section 2.4).
const BROKEN_FOR: Duration = Duration::from_secs(10 * 60);

/// A server's announcement.
#[derive(Debug)]
struct Announcement {
    host: String,
    port: u16,
    /// The UDP port.
    http3: u16,
    expires: Instant,
    broken_until: Option<Instant>,
}

/// What this process was told.
#[derive(Debug, Default)]
pub(super) struct Announcements(Mutex<Vec<Announcement>>);

/// They are facts about servers, told over TLS; so all connections of the process share them.
pub(super) static ANNOUNCEMENTS: Announcements = Announcements(Mutex::new(Vec::new()));

impl Announcements {
    /// Takes note of what a response from `target`, over TLS, says.
    pub(super) fn note(&self, target: &Target, headers: &HeaderMap, now: Instant) {
        let values: Vec<_> =
            headers.get_all(header::ALT_SVC).iter().filter_map(|value| value.to_str().ok()).collect();
        if values.is_empty() || !target.is_secure {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.iter().position(|known| known.is_of(target)).map(|at| known.swap_remove(at));
        let Some((http3, max_age)) = values.iter().find_map(|value| parse(value)) else { return };
        known.retain(|known| known.expires > now);
        if known.len() >= MAX_SERVERS
            && let Some(first) =
                known.iter().enumerate().min_by_key(|(_, known)| known.expires).map(|(at, _)| at)
        {
            known.swap_remove(first);
        }
        known.push(Announcement {
            host: target.host.clone(),
            port: target.port,
            http3,
            expires: now + max_age.min(DAY),
            broken_until: before.and_then(|before| before.broken_until),
        });
    }

    /// The UDP port on which `target` speaks HTTP/3, if it said so and it works.
    pub(super) fn port(&self, target: &Target, now: Instant) -> Option<u16> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.iter().find(|known| known.is_of(target))?;
        let works = known.expires > now && known.broken_until.is_none_or(|until| until <= now);
        works.then_some(known.http3)
    }

    /// HTTP/3 did not work with `target`.
    pub(super) fn note_broken(&self, target: &Target, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.iter_mut().find(|known| known.is_of(target)) {
            known.broken_until = Some(now + BROKEN_FOR);
        }
    }
}

impl Announcement {
    fn is_of(&self, target: &Target) -> bool {
        self.host == target.host && self.port == target.port
    }
}

/// The port of the first alternative that is HTTP/3 on the same host, and how long that holds.
fn parse(value: &str) -> Option<(u16, Duration)> {
    value.split(',').find_map(|alternative| {
        let mut parts = alternative.split(';').map(str::trim);
        let authority = parts.next()?.strip_prefix("h3=")?.strip_prefix('"')?.strip_suffix('"')?;
        let port = authority.strip_prefix(':')?.parse().ok()?;
        let max_age = parts.find_map(|parameter| parameter.strip_prefix("ma="));
        let max_age = max_age
            .map_or(Some(DAY), |seconds| seconds.trim_matches('"').parse().ok().map(Duration::from_secs))?;
        Some((port, max_age))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::parse(url).expect("it is a URL")
    }

    fn headers(value: &'static str) -> HeaderMap {
        [(header::ALT_SVC, http::HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn an_announcement_is_http3_on_the_same_host() {
        let hour = Duration::from_secs(3600);
        for (value, parsed) in [
            ("h3=\":443\"; ma=3600", Some((443, hour))),
            ("h3=\":8443\"", Some((8443, DAY))),
            ("h2=\":443\"; ma=60, h3=\":444\"; persist=1; ma=3600", Some((444, hour))),
            ("h3-29=\":443\"", None),
            ("h3=\"other.example:443\"", None),
            ("h3=\":70000\"", None),
            ("h3=\":443\"; ma=soon", None),
            ("h3=:443", None),
            ("clear", None),
            ("", None),
        ] {
            assert_eq!(parse(value), parsed, "{value}");
        }
    }

    #[test]
    fn what_was_announced_is_known_until_it_expires_or_is_taken_back() {
        let (known, now) = (Announcements::default(), Instant::now());
        let here = target("wss://here.example/");
        known.note(&here, &headers("h3=\":444\"; ma=60"), now);
        assert_eq!(known.port(&target("wss://here.example/elsewhere"), now), Some(444));
        assert_eq!(known.port(&target("wss://here.example:444/"), now), None);
        known.note(&here, &HeaderMap::new(), now);
        assert_eq!(known.port(&here, now + Duration::from_secs(59)), Some(444));
        assert_eq!(known.port(&here, now + Duration::from_secs(60)), None);
        known.note(&here, &headers("clear"), now);
        assert_eq!(known.port(&here, now), None);
    }

    #[test]
    fn nothing_is_taken_from_who_could_be_anyone() {
        let (known, now) = (Announcements::default(), Instant::now());
        let here = target("ws://here.example/");
        known.note(&here, &headers("h3=\":444\""), now);
        assert_eq!(known.port(&here, now), None);
    }

    #[test]
    fn what_does_not_work_is_left_alone_for_a_while() {
        let (known, now) = (Announcements::default(), Instant::now());
        let here = target("wss://here.example/");
        known.note(&here, &headers("h3=\":444\""), now);
        known.note_broken(&here, now);
        // Its own word does not mend it.
        known.note(&here, &headers("h3=\":444\""), now);
        assert_eq!(known.port(&here, now + BROKEN_FOR - Duration::from_secs(1)), None);
        assert_eq!(known.port(&here, now + BROKEN_FOR), Some(444));
    }

    #[test]
    fn many_servers_do_not_fill_the_memory() {
        let (known, now) = (Announcements::default(), Instant::now());
        for number in 0..MAX_SERVERS + 10 {
            known.note(&target(&format!("wss://h{number}.example/")), &headers("h3=\":444\""), now);
        }
        assert_eq!(known.0.lock().expect("nobody panicked").len(), MAX_SERVERS);
    }
}
