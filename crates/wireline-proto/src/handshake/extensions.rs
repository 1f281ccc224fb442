//! The `Sec-WebSocket-Extensions` header (RFC 6455 section 9.1).

use std::borrow::Cow;

use http::{HeaderMap, header};

use super::fields::is_token;

/// One extension of the list, with its parameters.
#[derive(Debug)]
pub(super) struct Extension<'h> {
    pub(super) name: &'h str,
    parameters: Vec<(&'h str, Option<Cow<'h, str>>)>,
}

impl Extension<'_> {
    /// Each parameter's name and, if it has one, value.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.parameters.iter().map(|(name, value)| (*name, value.as_deref()))
    }
}

/// The header does not have the form of section 9.1: the connection must be failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// All extensions of all lines of the header, in order. It takes time in proportion to their length.
pub(super) fn extensions(headers: &HeaderMap) -> impl Iterator<Item = Result<Extension<'_>, Malformed>> {
    headers
        .get_all(header::SEC_WEBSOCKET_EXTENSIONS)
        .iter()
        .flat_map(|line| List { rest: line.as_bytes(), is_broken: false })
}

/// What is left of one line.
struct List<'h> {
    rest: &'h [u8],
    is_broken: bool,
}

impl<'h> Iterator for List<'h> {
    type Item = Result<Extension<'h>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        // Empty list elements are to be ignored (RFC 9110 section 5.6.1.2).
        while self.take(b',') {}
        if self.rest.is_empty() || self.is_broken {
            return None;
        }
        let extension = self.extension().ok_or(Malformed);
        self.is_broken = extension.is_err();
        Some(extension)
    }
}

impl<'h> List<'h> {
    fn extension(&mut self) -> Option<Extension<'h>> {
        let mut extension = Extension { name: self.token()?, parameters: Vec::new() };
        while self.take(b';') {
            let name = self.token()?;
            let value = if self.take(b'=') { Some(self.value()?) } else { None };
            extension.parameters.push((name, value));
        }
        (self.rest.is_empty() || self.take(b',')).then_some(extension)
    }

    /// Takes `byte` and the space around it, if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        self.rest = self.rest.trim_ascii_start();
        let Some(rest) = self.rest.strip_prefix(&[byte]) else { return false };
        self.rest = rest.trim_ascii_start();
        true
    }

    fn token(&mut self) -> Option<&'h str> {
        let end = self.rest.iter().position(|byte| !is_token(&[*byte])).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        std::str::from_utf8(token).ok().filter(|token| !token.is_empty())
    }

    /// A token, which may stand in quotes.
    fn value(&mut self) -> Option<Cow<'h, str>> {
        let Some(mut rest) = self.rest.strip_prefix(b"\"") else { return self.token().map(Cow::Borrowed) };
        let mut value = String::new();
        loop {
            let (&byte, behind) = rest.split_first()?;
            rest = behind;
            let byte = match byte {
                b'"' => break,
                b'\\' => {
                    let (&escaped, behind) = rest.split_first()?;
                    rest = behind;
                    escaped
                }
                byte => byte,
            };
            if !is_token(&[byte]) {
                return None;
            }
            value.push(char::from(byte));
        }
        self.rest = rest;
        (!value.is_empty()).then_some(Cow::Owned(value))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// The list in one spelling: `name;parameter=value`, commas between.
    fn parse(lines: &[&[u8]]) -> Result<String, Malformed> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_bytes(line).unwrap());
        }
        let mut spelled = Vec::new();
        for extension in extensions(&headers) {
            let extension = extension?;
            let mut words = extension.name.to_owned();
            for (name, value) in extension.parameters() {
                words.push_str(&format!(";{name}"));
                words.extend(value.map(|value| format!("={value}")));
            }
            spelled.push(words);
        }
        Ok(spelled.join(","))
    }

    #[test]
    fn every_form_of_the_list_is_read() {
        for (lines, expected) in [
            (&[][..], ""),
            (&[""], ""),
            (&["foo"], "foo"),
            (&["foo, bar; baz=2"], "foo,bar;baz=2"),
            (&["foo", "bar; baz=2"], "foo,bar;baz=2"),
            (&[", foo ,, bar,"], "foo,bar"),
            (&[" foo\t;\ta = 1 ; b"], "foo;a=1;b"),
            (&["foo;a=\"1\""], "foo;a=1"),
            (&["foo;a=\"\\1\\0\""], "foo;a=10"),
            (&["constructor; __proto__"], "constructor;__proto__"),
        ] {
            let bytes: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(parse(&bytes).as_deref(), Ok(expected), "{lines:?}");
        }
    }

    #[test]
    fn what_has_no_form_is_malformed() {
        for line in [
            ";",
            "=",
            "foo;",
            "foo;;a",
            "foo a",
            "foo;a b",
            "foo;a=",
            "foo;=1",
            "foo;a=1 2",
            "foo;a=\"",
            "foo;a=\"1",
            "foo;a=\"\"",
            "foo;a=\"a b\"",
            "foo;a=\"1\"2",
            "foo;a=\"\\",
            "foo;a=\"1,bar\"",
            "f/oo",
            "\u{e9}",
            "foo, ;",
            "foo;a='1 2'",
        ] {
            assert_eq!(parse(&[line.as_bytes()]), Err(Malformed), "{line:?}");
        }
        assert_eq!(parse(&[b"foo", b"bar;"]), Err(Malformed));
    }

    #[test]
    fn a_long_list_takes_time_in_proportion() {
        for unit in ["a,", "a;b=\"", "a;b=\"\\\\", ",", "  ", "a;b=c;", "a ", ";", "\"", "a;b=\"\\\""] {
            let line = unit.repeat(60_000 / unit.len());
            let _ = parse(&[line.as_bytes()]);
        }
    }
}
