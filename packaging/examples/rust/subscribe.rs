use p2pd_api::v1::{SubscribeRequest, pub_sub_service_client::PubSubServiceClient, subscribe_response::Event};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut pubsub = PubSubServiceClient::new(p2pd_api::connect(&p2pd_api::default_socket()).await?);
    let request = SubscribeRequest { topic: "chat".into(), contract: None };
    let mut events = pubsub.subscribe(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        if let Some(Event::Message(message)) = event.event {
            println!("{}: {}", message.sender, String::from_utf8_lossy(&message.data));
        }
    }
    Ok(())
}
