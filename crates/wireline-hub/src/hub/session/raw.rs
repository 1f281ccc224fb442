//! A connection in raw mode: one topic, and nothing but its payloads.

use std::sync::Arc;

use wireline::{Request, Result};

use super::{Session, client, connect, refuse};
use crate::{
    Topic,
    hub::Inner,
    node::Start,
    protocol::{Wire, code, raw},
};

/// Speaks about one topic without words of its own.
pub(in crate::hub) async fn serve(
    hub: Arc<Inner>,
    request: Request,
    topic: Topic,
    last: usize,
) -> Result<()> {
    if hub.is_leaving() {
        return refuse(request).await;
    }
    let connect = connect(&request);
    let client_ip = connect.client_ip;
    let Ok(identity) = hub.hooks.connect(connect).await else {
        return request.reject(http::StatusCode::UNAUTHORIZED).await;
    };
    let (client, expires) = client(identity, client_ip);
    if hub.hooks.subscribe(&client, &topic).await.is_err() {
        return request.reject(http::StatusCode::FORBIDDEN).await;
    }
    let ws = request.accept().await?;
    let mut session = Session::new(hub, client, ws, Wire::Raw, expires);
    session.subscribe(1, topic.clone(), Start::Last(last)).await;
    while let Some(message) = session.next().await? {
        if let Err(refusal) = session.publish(&topic, None, true, message).await {
            let code = if refusal.is_temporary() { code::UNAVAILABLE } else { code::FORBIDDEN };
            session.close(code, raw::reason(refusal))?;
        }
        session.ws.writable().await;
    }
    Ok(())
}
