-- Reasons in free text, then chooses one of the given options by their likelihood.
return program{
 args = {question = "string", options = {type = "list", items = "string", min = 2}},
 main = function(s, a)
  s:add("Question: ", a.question, "\nReasoning:")
  s:gen{name = "why", max_tokens = 96, stop = {"\n\n", "Answer"}}
  local choices = {}
  for i, o in ipairs(a.options) do choices[i] = " " .. o end
  s:add("\nAnswer (", table.concat(a.options, "/"), "):")
  local _, info = s:select{name = "answer", choices = choices}
  return {answer = a.options[info.index], why = s.v.why}
 end}
