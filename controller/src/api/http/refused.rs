//! What every operation of the API may refuse with, for its OpenAPI document.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{self, RefOr};

use super::Problem;

/// All of [`Problem::KINDS`], by status.
pub struct Refused;

impl IntoResponses for Refused {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let mut titles: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        for kind in Problem::KINDS {
            titles.entry(kind.status.as_u16()).or_default().push(kind.title);
        }
        let response = |titles: Vec<&str>| {
            let problem = openapi::ContentBuilder::new().schema(Some(openapi::Ref::from_schema_name("Problem")));
            openapi::ResponseBuilder::new()
                .description(titles.join("; or "))
                .content("application/problem+json", problem.build())
                .build()
        };
        titles.into_iter().map(|(status, titles)| (status.to_string(), RefOr::T(response(titles)))).collect()
    }
}
