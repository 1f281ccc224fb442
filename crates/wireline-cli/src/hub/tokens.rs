//! Who a client is: JSON Web Tokens (RFC 7519).

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use wireline::{Error, Result};
use wireline_hub::{Connect, Denied, Identity, Member, Topic};

/// Bytes of a secret: as many as the digest has, with which it is used (RFC 7518 section 3.2).
const SHORTEST_SECRET: usize = 32;

/// A key, and what must be true of tokens that it verifies.
pub(super) struct Tokens {
    key: DecodingKey,
    validation: Validation,
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: u64,
    #[serde(flatten)]
    grants: Grants,
}

/// What a token allows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Grants {
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    publish: Vec<String>,
}

impl Grants {
    pub(super) fn hears(&self, topic: &Topic) -> bool {
        self.subscribe.iter().any(|pattern| is_match(pattern, topic))
    }

    pub(super) fn speaks(&self, topic: &Topic) -> bool {
        self.publish.iter().any(|pattern| is_match(pattern, topic))
    }
}

/// Whether a topic is the one named, or begins with what stands before a `*` at the end.
fn is_match(pattern: &str, topic: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == topic, |start| topic.starts_with(start))
}

impl Tokens {
    /// With the secret, or the public key, in a file. `None` if neither is given.
    pub(super) fn load(secret: Option<&Path>, key: Option<&Path>) -> Result<Option<Self>> {
        match (secret, key) {
            (Some(path), _) => Self::with_secret(read(path)?.trim_ascii())
                .map(Some)
                .map_err(|why| Error::other(format!("{}: {why}", path.display()))),
            (None, Some(path)) => Self::with_public_key(&read(path)?)
                .map(Some)
                .map_err(|why| Error::other(format!("{}: {why}", path.display()))),
            (None, None) => Ok(None),
        }
    }

    fn with_secret(secret: &[u8]) -> Result<Self, String> {
        if secret.len() < SHORTEST_SECRET {
            return Err(format!(
                "a secret has {SHORTEST_SECRET} bytes or more; this one has {}",
                secret.len()
            ));
        }
        let algorithms = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        Ok(Self::new(DecodingKey::from_secret(secret), &algorithms))
    }

    fn with_public_key(pem: &[u8]) -> Result<Self, String> {
        if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            return Ok(Self::new(key, &[Algorithm::ES256, Algorithm::ES384]));
        }
        let rsa = DecodingKey::from_rsa_pem(pem);
        let key = rsa.map_err(|error| format!("it is no public key of RSA or EC in PEM: {error}"))?;
        let pkcs1 = [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
        let pss = [Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
        Ok(Self::new(key, &[pkcs1, pss].concat()))
    }

    fn new(key: DecodingKey, algorithms: &[Algorithm]) -> Self {
        let mut validation = Validation::new(algorithms[0]);
        validation.algorithms = algorithms.to_vec();
        validation.validate_nbf = true;
        // It is the key's owner who says for what a token is.
        validation.validate_aud = false;
        validation.leeway = 5;
        validation.set_required_spec_claims(&["exp"]);
        Self { key, validation }
    }

    /// Who this is: by the token of `auth`, or else of the header `Authorization`, or of the query's `token`, since
    /// raw mode has no words for it.
    pub(super) fn identify(&self, connect: &Connect) -> Result<Identity, Denied> {
        let header = connect.headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = header.and_then(|value| value.strip_prefix("Bearer "));
        let query = connect.uri.query().unwrap_or_default();
        let parameter = url::form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == "token")
            .map(|(_, value)| value.into_owned());
        let token = connect.token.as_deref().or(bearer).or(parameter.as_deref()).ok_or(Denied)?;
        let claims = self.verify(token).map_err(|error| {
            tracing::info!(%error, client_ip = ?connect.client_ip, "refused a token");
            Denied
        })?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_secs(claims.exp).saturating_sub(now);
        Ok(Identity::from(claims.sub.map(Member::new)).with(claims.grants).expires_in(left))
    }

    fn verify(&self, token: &str) -> jsonwebtoken::errors::Result<Claims> {
        Ok(jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)?.claims)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::other(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn signed(claims: &Value, algorithm: Algorithm, secret: &[u8]) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).expect("it can be signed")
    }

    fn in_an_hour() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs() + 3600
    }

    #[test]
    fn a_token_says_who_and_what_for() {
        let tokens = Tokens::with_secret(SECRET).expect("it is long enough");
        let claims = json!({"sub": "ann", "exp": in_an_hour(), "aud": "anyone", "subscribe": ["news", "chat:*"], "publish": ["chat:1"]});
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let claims = tokens.verify(&signed(&claims, algorithm, SECRET)).expect("it is valid");
            assert_eq!(claims.sub.as_deref(), Some("ann"));
            let topic = |name: &str| Topic::new(name).expect("it is a name");
            let heard = ["news", "chat:1", "chat:2", "newsletter", "chat"]
                .map(|name| claims.grants.hears(&topic(name)));
            assert_eq!(heard, [true, true, true, false, false]);
            let spoken = ["news", "chat:1", "chat:2"].map(|name| claims.grants.speaks(&topic(name)));
            assert_eq!(spoken, [false, true, false]);
        }
    }

    #[test]
    fn what_is_not_signed_so_or_over_is_not_believed() {
        let tokens = Tokens::with_secret(SECRET).expect("it is long enough");
        let good = json!({"sub": "ann", "exp": in_an_hour()});
        let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbm4iLCJleHAiOjk5OTk5OTk5OTl9.";
        for (why, token) in [
            ("another secret", signed(&good, Algorithm::HS256, &[b'x'; 32])),
            ("over", signed(&json!({"sub": "ann", "exp": 1_000_000_000}), Algorithm::HS256, SECRET)),
            ("not yet", signed(&json!({"exp": in_an_hour(), "nbf": in_an_hour()}), Algorithm::HS256, SECRET)),
            ("for ever", signed(&json!({"sub": "ann"}), Algorithm::HS256, SECRET)),
            ("unsigned", unsigned.to_owned()),
            ("nothing", String::new()),
        ] {
            assert!(tokens.verify(&token).is_err(), "{why}");
        }
    }

    #[test]
    fn keys_that_cannot_be_used_are_told() {
        assert!(Tokens::with_secret(b"short").is_err());
        assert!(Tokens::with_public_key(b"-----BEGIN PUBLIC KEY-----").is_err());
    }

    #[test]
    fn a_public_key_verifies_what_its_private_key_signed_and_is_no_secret() {
        let key = rcgen::KeyPair::generate().expect("there is randomness");
        let tokens = Tokens::with_public_key(key.public_key_pem().as_bytes()).expect("it is EC");
        let claims = json!({"sub": "ann", "exp": in_an_hour()});
        let private = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).expect("it is its key");
        let token = encode(&Header::new(Algorithm::ES256), &claims, &private).expect("it can be signed");
        assert_eq!(tokens.verify(&token).expect("it is valid").sub.as_deref(), Some("ann"));
        // The public key, which everybody knows, as the secret of HMAC (CVE-2015-9235).
        let forged = signed(&claims, Algorithm::HS256, key.public_key_pem().as_bytes());
        assert!(tokens.verify(&forged).is_err());
    }
}
