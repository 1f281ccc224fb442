//! What the documentation of `hub.v1` shows is what is said.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;
use wireline::Config;
use wireline_hub::{Denied, Hub, Member, Topic, TopicRules};

use crate::client::Client;

const PAGE: &str = include_str!("../../../../docs/hub-v1.md");

/// The lines of its conversations, without those between.
fn conversation() -> Vec<&'static str> {
    let blocks = PAGE.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix("text\n")).flat_map(str::lines).collect()
}

/// A message as the page writes it: its header, and the payload if there is one.
fn parse(line: &str) -> (Value, Option<&str>) {
    let (header, payload) =
        line.split_once("\\n").map_or((line, None), |(header, payload)| (header, Some(payload)));
    (serde_json::from_str(header).unwrap_or_else(|error| panic!("{header}: {error}")), payload)
}

/// Takes what was said for what the page has there: positions have the same first number and any second, and connections
/// any name. What they stand for is noted.
fn compare(shown: &Value, said: &Value, meanings: &mut HashMap<String, Value>) {
    let (shown, said) = (shown.as_object().expect("an object"), said.as_object().expect("an object"));
    assert!(shown.keys().eq(said.keys()), "{shown:?} is shown, and {said:?} said");
    for (name, shown) in shown {
        let (said, offset) = (&said[name], |value: &Value| {
            value.as_str().and_then(|it| it.split('.').next().map(str::to_owned))
        });
        match &**name {
            "pos" | "p" => {
                assert_eq!(offset(shown), offset(said));
                let known = meanings.entry(shown.to_string()).or_insert_with(|| said.clone());
                assert_eq!(known, said, "{shown} stands for one position");
            }
            "conn" => assert_eq!(shown.to_string().len(), said.to_string().len()),
            _ => assert_eq!(shown, said, "{name}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_conversations_of_the_page_are_what_is_said() {
    let hub = Hub::builder()
        .topics(|topic| TopicRules { presence: topic.starts_with("chat:"), ..TopicRules::default() })
        .on_connect(|connect| async move { Ok(connect.token.map(Member::new)) })
        .on_subscribe(|_, topic| async move { if &*topic == "staff" { Err(Denied) } else { Ok(()) } })
        .on_publish(|_, _| async { Ok(()) })
        .start();
    let mut client = Client::open(&hub, Config::client()).await;
    let mut meanings: HashMap<String, Value> = HashMap::new();
    let lines = conversation();
    assert!(lines.len() > 20, "the page shows conversations");
    for line in lines {
        let (who, what) = line.split_once(": ").unwrap_or_else(|| panic!("who says {line:?}?"));
        match who {
            "C" => {
                let (mut header, payload) = parse(what);
                for (_, value) in header.as_object_mut().expect("an object") {
                    if let Some(meant) = meanings.get(&value.to_string()) {
                        *value = meant.clone();
                    }
                }
                let text = payload.map_or(header.to_string(), |payload| format!("{header}\n{payload}"));
                client.ws.send(text).await.expect("it is open");
            }
            "S" => {
                let ((shown, payload), said) = (parse(what), client.hear().await);
                compare(&shown, &said.header, &mut meanings);
                assert_eq!(payload.unwrap_or_default(), said.text(), "{line}");
            }
            "H" => match what.split_once(' ') {
                Some(("publish", rest)) => {
                    let (topic, text) = rest.split_once(' ').expect("a topic, and what is published");
                    let topic = Topic::new(topic).expect("it is a name");
                    hub.publish(topic, text).await.map(drop).expect("it is published");
                }
                Some(("broadcast", text)) => drop(hub.broadcast(text).await.expect("it is published")),
                _ => {
                    assert_eq!(what, "lose");
                    client.network.reset();
                    client = Client::open(&hub, Config::client()).await;
                    // Long enough that its leave is told, or not at all.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            },
            other => panic!("nobody is called {other:?}"),
        }
    }
    client.hears_nothing().await;
}
