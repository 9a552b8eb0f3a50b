//! Generates the API's types from `proto/` without protoc, and keeps the descriptor for reflection and JSON.

use std::{env, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["dht", "node", "peer", "protocol", "pubsub", "stream"].map(|noun| format!("proto/p2pd/v1/{noun}.proto"));
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("p2pd.v1.binpb");
    fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
