//! Sizes on the command line: `65536`, `64K`, `16M`, `1G`.

/// Reads a number of bytes, with K, M or G for powers of 1024.
pub(crate) fn parse(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: usize = digits.parse().map_err(|_| "give a number of bytes, such as 65536, 64K or 1M")?;
    number.checked_mul(1 << shift).ok_or_else(|| "more than this machine can count".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_have_powers_of_1024() {
        assert_eq!(parse("65536"), Ok(65_536));
        assert_eq!(parse("64K"), Ok(65_536));
        assert_eq!(parse("16m"), Ok(16 << 20));
        for bad in ["", "K", "-1", "1.5M", "1T", "99999999999999999999", "99999999999G"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
