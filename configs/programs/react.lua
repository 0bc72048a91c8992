-- Thought, Action, Observation: `lookup` is run by the client, `sum` here.
return program{
 args = {question = "string", max_steps = {type = "int", default = 4, max = 8}},
 tools = {
  lookup = {doc = "Look up a term.", params = {term = "string"}},
  sum = {doc = "Add.", params = {x = "float", y = "float"}, run = function(p) return p.x + p.y end}},
 main = function(s, a)
  s:add("Use Thought, Action, Observation lines.\nQuestion: ", a.question)
  for i = 1, a.max_steps do
   s:add("\nThought:"):gen{name = "thought" .. i, max_tokens = 48, stop = "\n"}
   local act = s:add("\nAction:"):select{choices = {" lookup", " sum", " finish"}}:sub(2)
   if act == "finish" then break end
   local p = s:add(" "):gen{json_schema = tool_schema(act), max_tokens = 64}
   local ok, out = pcall(call_tool, act, p)
   s:add("\nObservation: ", ok and json.encode(out) or out.message)
  end
  return s:add("\nAnswer:"):gen{name = "answer", max_tokens = 48, stop = "\n"}
 end}
