//! All that decodes what somebody else has said, for fuzz targets.

use wireline::Message;

use crate::{
    Position,
    protocol::{centrifugo, hub_v1},
};

/// Gives any bytes to all that decodes what clients, hubs and brokers say.
///
/// # Panics
/// If something is wrong: a decoder panics, or what it has understood is not the same when it is said again.
pub fn decode_anything(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for message in [Message::from(bytes.to_vec()), Message::from(&*text)] {
        let _ = hub_v1::decode(message.clone());
        for line in centrifugo::lines(message.clone()) {
            let _ = centrifugo::decode(&line);
        }
        #[cfg(feature = "client")]
        crate::client::hear_anything(message);
    }
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string().parse(), Ok(position), "{text:?}");
    }
    #[cfg(feature = "redis")]
    if let Ok(topic) = crate::Topic::new(text.lines().next().unwrap_or_default()) {
        crate::backplane::decode_redis(&topic, bytes::Bytes::copy_from_slice(bytes));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn anything_can_be_decoded_or_not(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                r#"\{"(re|id|op|ev|t|p|pos|err|who|retry|ping|connect|publish|data)":("?[0-9a-z.]{0,9}"?|\[[0-9,]{0,5}\]|\{\})(,"(t|p|pos|id|who|code)":"?[a-z0-9.]{0,9}"?)?\}(\n.{0,9})?"#
                    .prop_map(String::into_bytes),
            ],
        ) {
            decode_anything(&bytes);
        }
    }
}
