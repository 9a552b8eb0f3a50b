//! Which caller may call which method. The contract gives each method a role; whoever has it may call. What has no role is not called
//! by anybody. The caller is in the extensions of each request that passes.

use p2pd_api::{
    Reason,
    v1::{Role, role_of},
};
use tonic::{Code, Status};

use super::{caller::Caller, layer::Request, status};

/// Services beside the contract's, which only tell what there is: gRPC's own health and reflection.
const TELLING: [&str; 2] = ["/grpc.health.", "/grpc.reflection."];

/// Lets a request through whose caller has the role of its method, and notes the caller in it.
pub(super) fn check(mut request: Request) -> Result<Request, Status> {
    let path = request.uri().path();
    let Some(role) = role(path) else { return Err(Status::unimplemented("")) };
    let caller = Caller::of_connection(request.extensions()).filter(|caller| caller.may(role));
    let Some(caller) = caller else {
        tracing::warn!(caller = ?Caller::of_connection(request.extensions()), path, "call refused");
        return Err(refused(role));
    };
    request.extensions_mut().insert(caller);
    Ok(request)
}

fn refused(role: Role) -> Status {
    let message = format!("the caller's user has not the role of this method, {}", role.as_str_name());
    status::status(Code::PermissionDenied, Reason::CallerDenied, message)
}

fn role(path: &str) -> Option<Role> {
    let tells = TELLING.iter().any(|service| path.starts_with(service));
    role_of(path).or(tells.then_some(Role::Observe))
}

#[cfg(test)]
mod tests {
    use tonic::body::Body;

    use super::*;

    #[test]
    fn each_method_has_a_role_and_what_is_no_method_has_none() {
        assert_eq!(role("/p2pd.v1.PeerService/SetRule"), Some(Role::Admin));
        assert_eq!(role("/grpc.health.v1.Health/Check"), Some(Role::Observe));
        for path in ["", "/", "/p2pd.v1.PeerService/Nothing", "/grpc.other.v1.Service/Call"] {
            assert_eq!(role(path), None, "{path}");
        }
    }

    #[test]
    fn a_request_is_refused_where_nobody_is_known_to_call() {
        let to = |path| tonic::codegen::http::Request::builder().uri(path).body(Body::empty()).unwrap();
        let code = |path| check(to(path)).unwrap_err().code();
        assert_eq!(code("/p2pd.v1.NodeService/GetInfo"), Code::PermissionDenied);
        assert_eq!(code("/p2pd.v1.NodeService/Nothing"), Code::Unimplemented);
    }
}
