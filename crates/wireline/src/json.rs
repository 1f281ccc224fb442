//! Messages as JSON, by serde.

use std::future::Future;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Message, RecvError, SendError, Socket, WebSocket};

/// Why a JSON message was not sent or not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Sending: a value that has no JSON, the application's fault; nothing was sent. Receiving: the peer's
    /// message is not JSON, or not of this type; the connection goes on, and the next call gives the next
    /// message.
    #[error("not the JSON that was expected: {0}")]
    Json(#[from] serde_json::Error),
    /// As [`Socket::send`] has it.
    #[error(transparent)]
    Send(#[from] SendError),
    /// As [`WebSocket::recv`] has it.
    #[error(transparent)]
    Recv(#[from] RecvError),
}

impl Message {
    /// A text message with this value as JSON. With the feature `json`.
    ///
    /// # Errors
    /// When the value has no JSON, such as a map whose keys are no strings. A number that is none (NaN, infinity)
    /// becomes `null`, as `serde_json` has it.
    pub fn from_json<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Self> {
        serde_json::to_string(value).map(Self::from)
    }

    /// The value that it has as JSON, be it a text or a binary message. With the feature `json`.
    ///
    /// # Errors
    /// When it is not JSON, is not of this type, or nests deeper than 128 levels.
    pub fn json<'m, T: Deserialize<'m>>(&'m self) -> serde_json::Result<T> {
        match self {
            Self::Text(text) => serde_json::from_str(text),
            Self::Binary(bytes) => serde_json::from_slice(bytes),
        }
    }
}

impl Socket {
    /// Sends a value as JSON in a text message; it is written down before the first await, and sent as
    /// [`send`](Self::send) does it. With the feature `json`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> wireline::Result<()> {
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize, PartialEq, Debug)]
    /// struct Price {
    ///     name: String,
    ///     cents: u64,
    /// }
    ///
    /// # let server = wireline::Server::new().on_message(|socket, message| async move {
    /// #     socket.send(message).await?;
    /// #     Ok(())
    /// # });
    /// # let listener = server.bind("127.0.0.1:0")?;
    /// # let url = format!("ws://{}/", listener.local_addr()?);
    /// # tokio::spawn(listener.serve());
    /// let mut ws = wireline::connect(url).await?;
    /// let price = Price { name: "tea".into(), cents: 250 };
    /// ws.send_json(&price).await?;
    /// assert_eq!(ws.recv_json::<Price>().await?, Some(price));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`JsonError::Json`] when the value has no JSON, else as [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub fn send_json<'s, T: Serialize + ?Sized>(
        &'s self,
        value: &T,
    ) -> impl Future<Output = Result<(), JsonError>> + use<'s, T> {
        let message = Message::from_json(value);
        async move { Ok(self.send(message?).await?) }
    }
}

impl WebSocket {
    /// The next message as the value that it has as JSON, be it text or binary. `Ok(None)` as in
    /// [`recv`](Self::recv). With the feature `json`.
    ///
    /// # Errors
    /// [`JsonError::Json`] when the message is something else: it is lost then, and the connection goes on.
    /// [`JsonError::Recv`] when the connection ended without a closing handshake.
    ///
    /// # Cancel safety
    /// As [`recv`](Self::recv).
    pub async fn recv_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, JsonError> {
        match self.recv().await? {
            Some(message) => Ok(Some(message.json()?)),
            None => Ok(None),
        }
    }
}
