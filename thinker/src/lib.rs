//! The bundled toy model.
