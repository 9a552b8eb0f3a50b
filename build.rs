//! Generates the API's types from `proto/` without protoc, keeps the descriptor for reflection and JSON, and writes down the role of
//! each method.

#[path = "proto/methods.rs"]
mod methods;

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files =
        fs::read_dir("proto/p2pd/v1")?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    files.sort();
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Encoded here, since the types of prost have no place for our option.
    fs::write(out.join("p2pd.v1.binpb"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("methods.rs"), methods::source(&compiler.descriptor_pool())?)?;
    let descriptors = compiler.file_descriptor_set();
    tonic_prost_build::configure().build_transport(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
