-- A record out of a text, held to a JSON schema.
local schema = {type = "object", required = {"name", "year", "tags"},
 properties = {name = {type = "string", maxLength = 40}, year = {type = "integer"},
  tags = {type = "array", items = {type = "string", maxLength = 16}, maxItems = 3}}}
return program{
 args = {text = "string"},
 main = function(s, a)
  s:user("Extract the record as JSON:\n" .. a.text)
  return s:assistant{name = "record", json_schema = schema, max_tokens = 160, temperature = 0}
 end}
