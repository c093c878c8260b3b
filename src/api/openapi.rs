//! The OpenAPI 3.1 document, generated from the handlers.

use axum::Json;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, License, OpenApi, OpenApiBuilder, Ref, ResponseBuilder,
};

use super::events::ModeName;
use super::problem::{MEDIA_TYPE, Problem};

/// The document before the routes are added.
pub(super) fn front() -> OpenApi {
    let bearer = SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Needed when homeostat runs with tokens. Roles: viewer, operator, pusher."))
            .build(),
    );
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("homeostat")
                .version(env!("CARGO_PKG_VERSION"))
                .license(Some(License::new("Apache-2.0")))
                .description(Some(
                    "The management API: the ports of every managed service, its policies and its decisions. Errors are problem \
                     documents (RFC 9457). Answers may gain members; readers ignore those that they do not know. Requests with \
                     unknown members or parameters are refused.",
                ))
                .build(),
        )
        .components(Some(
            ComponentsBuilder::new().schema_from::<Problem>().schema_from::<ModeName>().security_scheme("token", bearer).build(),
        ))
        .security(Some([SecurityRequirement::default(), SecurityRequirement::new::<_, [&str; 0], &str>("token", [])]))
        .build()
}

/// The whole document.
pub fn document() -> OpenApi {
    let (_, mut document) = super::routes().split_for_parts();
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            let problem = ResponseBuilder::new()
                .description("A problem document (RFC 9457).")
                .content(
                    MEDIA_TYPE,
                    Content::builder().schema(Some(Ref::from_schema_name("Problem"))).build(),
                )
                .build();
            operation.responses.responses.insert("default".into(), problem.into());
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
}

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "self", responses((status = 200, body = Object)))]
pub(super) async fn openapi_json() -> Json<OpenApi> {
    Json(document())
}
