local call_tool = call_tool
return program{
 doc = "Answers.", version = "2",
 args = {question = "string", max_steps = {type = "int", default = 4, max = 8}},
 returns = {type = "list", items = "string"},
 tools = {lookup = {doc = "Look up.", params = {term = "string"}},
  add = {params = {x = "float"}, run = function(p) return p.x end}},
 defaults = {temperature = 0.5}, limits = {max_gens = 10},
 main = function(s, a) return a.question end}
