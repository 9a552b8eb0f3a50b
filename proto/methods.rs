//! The services of the API and the role of each method, read from the descriptor: `build.rs` writes them down as Rust. A method
//! without a role is an error here, so that it does not build.

use std::fmt::Write;

use prost_reflect::{DescriptorPool, Kind};

const PACKAGE: &str = "p2pd.v1";
/// The option that `role.proto` declares.
const OPTION: &str = "p2pd.v1.role";

/// Rust source of `SERVICES`, `role_of` and `takes_many`.
pub(crate) fn source(pool: &DescriptorPool) -> Result<String, String> {
    let option = pool.get_extension_by_name(OPTION).ok_or_else(|| format!("no option {OPTION} in the protos"))?;
    let Kind::Enum(roles) = option.kind() else { return Err(format!("{OPTION} is no enum")) };
    let (mut services, mut methods, mut many) = (String::new(), String::new(), String::new());
    for service in pool.services().filter(|service| service.package_name() == PACKAGE) {
        let _ = writeln!(services, "    {:?},", service.full_name());
        for method in service.methods() {
            let options = method.options();
            let role = options.get_extension(&option).as_enum_number().filter(|number| *number != 0);
            let role = role.and_then(|number| roles.get_value(number)).ok_or_else(|| {
                let name = method.full_name();
                format!("{name} has no role: add to it in its proto which one its callers need, such as `option (role) = ROLE_OBSERVE;`")
            })?;
            let path = format!("/{}/{}", service.full_name(), method.name());
            let _ = writeln!(methods, "        {path:?} => Role::{},", variant(role.name()));
            if method.is_client_streaming() {
                let _ = writeln!(many, "        {path:?},");
            }
        }
    }
    Ok(format!(
        "/// Every service, by its full name.\npub const SERVICES: &[&str] = &[\n{services}];\n\n\
         /// The role that a method's callers need, by the path of its calls; `None` where the API has no such method.\n\
         pub fn role_of(path: &str) -> Option<Role> {{\n    Some(match path {{\n{methods}        _ => return None,\n    }})\n}}\n\n\
         /// Whether a call of the method of this path may have more than one request.\n\
         pub fn takes_many(path: &str) -> bool {{\n    const METHODS: &[&str] = &[\n{many}    ];\n    METHODS.contains(&path)\n}}\n"
    ))
}

/// A value of the enum as prost names it: `Observe` of `ROLE_OBSERVE`.
fn variant(name: &str) -> String {
    let word = name.trim_start_matches("ROLE_");
    word.chars().take(1).chain(word.chars().skip(1).flat_map(char::to_lowercase)).collect()
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorProto;

    use super::*;
    use crate::v1::{DESCRIPTORS, Role, SERVICES, role_of, takes_many};

    #[test]
    fn a_method_without_a_role_is_refused_by_its_name() {
        let whole = DescriptorPool::decode(DESCRIPTORS).unwrap();
        source(&whole).expect("the protos as they are");
        let mut pool = DescriptorPool::new();
        for file in whole.files() {
            let mut bytes = file.encode_to_vec();
            if file.name() == "p2pd/v1/node.proto" {
                // prost does not know the option, and leaves it out.
                bytes = FileDescriptorProto::decode(&bytes[..]).unwrap().encode_to_vec();
            }
            pool.decode_file_descriptor_proto(&bytes[..]).unwrap();
        }
        let fault = source(&pool).unwrap_err();
        assert!(fault.starts_with("p2pd.v1.NodeService.GetInfo has no role"), "{fault}");
    }

    #[test]
    fn the_table_has_each_method_with_its_role() {
        assert_eq!(role_of("/p2pd.v1.PeerService/ListRules"), Some(Role::Observe));
        assert_eq!(role_of("/p2pd.v1.PeerService/SetRule"), Some(Role::Admin));
        assert_eq!(role_of("/p2pd.v1.PeerService/Nothing"), None);
        assert!(SERVICES.contains(&"p2pd.v1.StreamService"), "{SERVICES:?}");
        assert!(takes_many("/p2pd.v1.PubSubService/PublishMany") && !takes_many("/p2pd.v1.PubSubService/Publish"));
    }

    #[test]
    fn the_page_of_the_services_names_each() {
        let page = include_str!("../docs/services.md");
        for service in SERVICES {
            let name = service.trim_start_matches("p2pd.v1.");
            assert!(page.contains(&format!("\n| {name} |")), "docs/services.md: {name}");
        }
    }
}
