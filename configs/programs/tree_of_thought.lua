-- A beam search over lines of thought: each step is tried several times, judged, and the best go on.
local function grow(st, d, width)
 return st:fork(width, function(b)
  b:add("Step ", d, ":"):gen{name = "step" .. d, max_tokens = 32, stop = "\n", temperature = 0.8}
  local j = b:add("\n"):copy():add "Is this step promising? Answer:"
  local _, info = j:select{choices = {" yes", " no"}}
  j:release()
  return {state = b, score = info.probs[1]}
 end):join()
end
return program{
 args = {task = "string", width = {type = "int", default = 3},
  depth = {type = "int", default = 2}, beam = {type = "int", default = 2}},
 main = function(s, a)
  local beam = {s:add("Task: ", a.task, "\n")}
  for d = 1, a.depth do
   local pool = {}
   for _, l in ipairs(parallel(beam, function(st) return grow(st, d, a.width) end)) do
    table.move(l, 1, #l, #pool + 1, pool)
   end
   table.sort(pool, function(x, y) return x.score > y.score end)
   for i, c in ipairs(pool) do
    if i <= a.beam then beam[i] = c.state else c.state:release() end
   end
  end
  return beam[1]:add("Answer:"):gen{name = "answer", max_tokens = 48, stop = "\n"}
 end}
