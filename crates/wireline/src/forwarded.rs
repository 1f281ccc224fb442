//! Where a request comes from, behind proxies that are trusted to tell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderName, header::FORWARDED};
use ipnet::{IpNet, Ipv4Net};

use crate::SetupError;

/// What stands for the peers of a Unix socket in a list.
const UNIX: &str = "unix:";

/// Peers that are believed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers {
    ranges: Vec<IpNet>,
    includes_unix: bool,
}

impl Peers {
    /// Reads addresses, ranges of them such as `10.0.0.0/8`, and `unix:`.
    pub(crate) fn parse<P: AsRef<str>>(peers: impl IntoIterator<Item = P>) -> Result<Self, SetupError> {
        let mut parsed = Self::default();
        for peer in peers {
            let peer = peer.as_ref();
            let range = peer.parse().or_else(|_| peer.parse().map(|addr: IpAddr| IpNet::from(addr)));
            match range {
                Ok(range) => parsed.ranges.push(canonical(range)),
                Err(_) if peer == UNIX => parsed.includes_unix = true,
                Err(_) => return Err(SetupError::Peer(peer.to_owned())),
            }
        }
        Ok(parsed)
    }

    /// Whether this peer is one of them; one without an address came over a Unix socket.
    pub(crate) fn include(&self, peer: Option<IpAddr>) -> bool {
        match peer.map(|addr| addr.to_canonical()) {
            Some(addr) => self.ranges.iter().any(|range| range.contains(&addr)),
            None => self.includes_unix,
        }
    }
}

/// IPv4 written as IPv6, such as `::ffff:10.0.0.0/104`, is IPv4: so peers are compared.
fn canonical(range: IpNet) -> IpNet {
    let IpNet::V6(mapped) = range else { return range };
    let (addr, len) = (mapped.addr().to_ipv4_mapped(), mapped.prefix_len().checked_sub(96));
    addr.zip(len).and_then(|(addr, len)| Ipv4Net::new(addr, len).ok()).map_or(range, IpNet::from)
}

/// Proxies whose header says whom they speak for. Each appends the address that it was asked from, so the
/// list is read from its end, and what stands before the first address that is no proxy's is anyone's
/// invention.
#[derive(Debug, Clone)]
pub(crate) struct TrustedProxies {
    pub(crate) peers: Peers,
    pub(crate) header: ForwardedHeader,
}

/// The one header that the proxies write. Any other they pass on as the client sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForwardedHeader {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

impl TrustedProxies {
    /// The client's address: the peer's own if it is no proxy. A hop that is not told ends the search at
    /// the proxy which does not tell it.
    pub(crate) fn client_ip(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let mut hops = match self.header {
            ForwardedHeader::XForwardedFor => x_forwarded_for(headers),
            ForwardedHeader::Forwarded => forwarded(headers),
        };
        let mut client = peer;
        while self.peers.include(client)
            && let Some(Some(hop)) = hops.pop()
        {
            client = Some(hop);
        }
        client.map(|addr| addr.to_canonical())
    }
}

/// The hops of `X-Forwarded-For`, the nearest last.
fn x_forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(HeaderName::from_static("x-forwarded-for")).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|hop| node(std::str::from_utf8(hop).ok()?))
        .collect()
}

/// The hops of `Forwarded`, the nearest last. A line without its form is one hop that is not told: a quote
/// that a client left open would swallow what a proxy appended.
fn forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(FORWARDED).into_iter();
    lines.flat_map(|line| line.to_str().ok().and_then(elements).unwrap_or(vec![None])).collect()
}

/// `for` of each element of a line (RFC 7239 section 4); `None` if it has not that form.
fn elements(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let (mut hops, mut rest) = (vec![None], line.trim());
    loop {
        let (name, after) = rest.split_once('=')?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return None;
        }
        let (value, after) = pair_value(after)?;
        if name.eq_ignore_ascii_case("for") {
            *hops.last_mut()? = node(&value);
        }
        rest = after.trim_start();
        match rest.bytes().next() {
            None => return Some(hops),
            Some(b';') => {}
            Some(b',') => hops.push(None),
            _ => return None,
        }
        rest = rest[1..].trim_start();
    }
}

/// A token or a quoted string, and what stands behind it.
fn pair_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        return (!value.contains('"')).then(|| (value.trim_end().to_owned(), after));
    };
    let (mut value, mut chars) = (String::new(), quoted.char_indices());
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            char => value.push(char),
        }
    }
    None
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Some(addr) = ipv6(text) {
        return Some(addr);
    }
    let (addr, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((addr, port)) => (ipv6(addr)?, port),
        None => {
            let (addr, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (addr.parse::<Ipv4Addr>().ok()?.into(), port)
        }
    };
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(addr)
}

/// An address without its zone, such as `fe80::1%eth0`, which means nothing on another machine.
fn ipv6(text: &str) -> Option<IpAddr> {
    let addr = text.split_once('%').map_or(text, |(addr, _)| addr);
    addr.parse::<Ipv6Addr>().ok().map(IpAddr::from)
}

/// A number, or a name that hides it (RFC 7239 section 6.3).
fn is_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(name) => {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
        None => port.len() <= 5 && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use ForwardedHeader::{Forwarded, XForwardedFor};

    use super::*;

    fn client_ip(header: ForwardedHeader, peer: Option<&str>, lines: &[&str]) -> Option<String> {
        let peers = Peers::parse(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "unix:"]).unwrap();
        let mut headers = HeaderMap::new();
        let name = if header == Forwarded { "forwarded" } else { "x-forwarded-for" };
        for line in lines {
            headers.append(name, line.parse().unwrap());
        }
        let client =
            TrustedProxies { peers, header }.client_ip(peer.map(|peer| peer.parse().unwrap()), &headers);
        client.map(|client| client.to_string())
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxys_is_the_clients() {
        for (peer, lines, client) in [
            ("10.0.0.1", &["203.0.113.9"][..], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6", "203.0.113.9, 10.2.3.4"], "203.0.113.9"),
            ("2001:db8::2", &["203.0.113.9:4711 , [2001:db8::1]:80"], "203.0.113.9"),
            ("192.0.2.7", &["2001:470::1"], "2001:470::1"),
            ("192.0.2.7", &["fe80::1%eth0"], "fe80::1"),
            ("192.0.2.7", &["[fe80::1%1]:80"], "fe80::1"),
            // Proxies all the way: the one that is farthest.
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &[], "10.0.0.1"),
            // Who does not tell is as far as it goes.
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, nonsense, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["203.0.113.9,"], "10.0.0.1"),
            // Nobody believes a stranger.
            ("192.0.2.8", &["203.0.113.9"], "192.0.2.8"),
        ] {
            assert_eq!(
                client_ip(XForwardedFor, Some(peer), lines).as_deref(),
                Some(client),
                "{peer} {lines:?}"
            );
        }
        assert_eq!(client_ip(XForwardedFor, None, &["203.0.113.9"]).as_deref(), Some("203.0.113.9"));
        assert_eq!(client_ip(XForwardedFor, None, &[]), None);
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_says() {
        for (lines, client) in [
            (&["for=203.0.113.9"][..], "203.0.113.9"),
            (&["For=\"[2001:470::1]:4711\""], "2001:470::1"),
            (&["for=6.6.6.6, for=203.0.113.9;proto=https;by=10.0.0.1"], "203.0.113.9"),
            (&["by=\"a, b; \\\"c\";for=203.0.113.9 , for=10.0.0.9"], "203.0.113.9"),
            (&["for=203.0.113.9", "for=10.0.0.9"], "203.0.113.9"),
            (&["for=6.6.6.6, for=_hidden"], "10.0.0.1"),
            (&["for=6.6.6.6, for=unknown, for=10.0.0.9"], "10.0.0.9"),
            (&["for=6.6.6.6, proto=https"], "10.0.0.1"),
            (&["for=\"203.0.113.9:_hidden\", for=\"10.0.0.9:80\""], "203.0.113.9"),
            (&["for=\"[2001:470::1]:_hid.d-en\""], "2001:470::1"),
            (&["for=6.6.6.6, for=\"[2001:470::1\""], "10.0.0.1"),
            (&["for=6.6.6.6, for=\"[2001:470::1]x\""], "10.0.0.1"),
            (&["for=6.6.6.6, for=\"[203.0.113.9]\""], "10.0.0.1"),
            (&["for=6.6.6.6, for=\"203.0.113.9:\""], "10.0.0.1"),
            (&["for=6.6.6.6, for=\"203.0.113.9:_\""], "10.0.0.1"),
        ] {
            assert_eq!(client_ip(Forwarded, Some("10.0.0.1"), lines).as_deref(), Some(client), "{lines:?}");
        }
    }

    #[test]
    fn a_client_cannot_hide_what_a_proxy_appends_behind_a_quote() {
        for line in [
            "for=\"6.6.6.6, for=203.0.113.9",
            "for=6.6.6.6;x=\", for=\"[2001:470::1]:80\"",
            "for=6.6.6.6;x=\"\\\", for=\"203.0.113.9\"",
            "for=6.6.6.6, nonsense",
            "for=6.6.6.6, a\"b=c",
            "=6.6.6.6",
            "",
        ] {
            assert_eq!(
                client_ip(Forwarded, Some("10.0.0.1"), &[line]).as_deref(),
                Some("10.0.0.1"),
                "{line}"
            );
        }
    }

    #[test]
    fn a_header_that_the_proxies_do_not_write_is_not_read() {
        let peers = Peers::parse(["10.0.0.1"]).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "6.6.6.6".parse().unwrap());
        headers.insert("forwarded", "for=203.0.113.9".parse().unwrap());
        let proxies = TrustedProxies { peers, header: Forwarded };
        let client = proxies.client_ip(Some("10.0.0.1".parse().unwrap()), &headers);
        assert_eq!(client, Some("203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn an_ipv4_address_is_the_same_written_as_an_ipv6_one() {
        for (list, peer, is_included) in [
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.1.2.3", false),
            ("::ffff:0:0/96", "203.0.113.9", true),
            ("::ffff:0:0/96", "2001:db8::1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::/0", "2001:db8::1", true),
        ] {
            let peers = Peers::parse([list]).unwrap();
            assert_eq!(peers.include(Some(peer.parse().unwrap())), is_included, "{list} {peer}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error() {
        for peer in ["", "10.0.0.0/33", "example.com", "unix", "10.0.0"] {
            assert!(Peers::parse([peer]).is_err(), "{peer}");
        }
    }
}
