// Shows the description of this server. Nothing is loaded from, or sent to, anywhere else:
// without a validator of its own, Swagger UI would ask one on the internet.
SwaggerUIBundle({
  url: "/docs/openapi.json",
  dom_id: "#docs",
  validatorUrl: null,
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
});
