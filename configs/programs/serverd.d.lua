---@meta
-- What generation programs can call, for editors that read LuaLS annotations. Not a program: its
-- name has a dot, so the server does not load it. docs/PROGRAMS.md explains everything.

---@class TypeSpec
---@field type "string"|"int"|"float"|"bool"|"list"|"object"|"image"|"json"
---@field default? any without one the argument is required
---@field doc? string
---@field enum? any[]
---@field pattern? string a regular expression that the whole string has to match
---@field min? number of the value, of a string's bytes, of a list's length
---@field max? number
---@field items? TypeSpec|string of a list
---@field fields? table<string, TypeSpec|string> of an object

---@class Tool
---@field doc? string
---@field params? table<string, TypeSpec|string>
---@field run? fun(params: table): any without it the client runs the tool

---@class Program
---@field main fun(s: State, a: table): any
---@field args? table<string, TypeSpec|string>
---@field returns? TypeSpec|string
---@field tools? table<string, Tool>
---@field doc? string
---@field version? string
---@field defaults? GenOptions
---@field limits? table<string, integer> only lower than the server's

---@class GenOptions
---@field name? string binds the value to s.v[name]
---@field stream? boolean default true
---@field max_tokens? integer
---@field min_tokens? integer
---@field ignore_eos? boolean
---@field n? integer more than 1: the value is a list, the first goes on
---@field stop? string|string[]
---@field stop_regex? string|string[]
---@field stop_token_ids? integer[]
---@field keep_stop? boolean the stop text is appended
---@field regex? string
---@field json_schema? table|string the value is decoded
---@field ebnf? string
---@field choices? string[] as select
---@field dtype? "int"|"float"|"bool"|"string"
---@field temperature? number
---@field top_p? number
---@field top_k? integer
---@field min_p? number
---@field presence_penalty? number
---@field frequency_penalty? number
---@field repetition_penalty? number
---@field logit_bias? table<string, number>
---@field seed? integer
---@field logprobs? integer
---@field reasoning? "keep"|"separate"
---@field tools? table
---@field tool_choice? string "auto", "required" or a tool's name

---@class SelectOptions
---@field name? string
---@field choices string[]
---@field method? "token_length_normalized"|"joint"|"greedy_token"|"unconditional_likelihood_normalized"

---@class SelectInfo
---@field index integer
---@field scores number[]
---@field probs number[] softmax of the scores
---@field margin number best minus second
---@field logprobs number[][]

---@class Meta
---@field text string
---@field tokens integer[]
---@field logprobs? number[]
---@field top_logprobs? table[]
---@field finish_reason string
---@field matched_stop? string
---@field reasoning? string
---@field usage table
---@field seed integer

---@class Score
---@field tokens integer[]
---@field logprobs number[]
---@field sum number
---@field mean number

---@class ToolCall
---@field id string
---@field name string
---@field arguments table

---@alias Body string|GenOptions|fun(s: State): any

---A sequence of tokens with its keys and values in the cache.
---@class State
---@field v table<string, any> variables
local State = {}

---Appends texts; control tokens in them are plain text.
---@param ... string|number
---@return State
function State:add(...) end

---Appends text whose control tokens are parsed.
---@param text string
---@return State
function State:special(text) end

---@param role "system"|"user"|"assistant"|"tool"|"developer"
---@return State
function State:open(role) end

---@return State
function State:close() end

---A whole turn; returns the body's value.
---@param body Body
---@return any
function State:system(body) end

---@param body Body
---@return any
function State:user(body) end

---@param body Body
---@return any
function State:assistant(body) end

---@param image string
---@return State
function State:image(image) end

---Generates, appends, returns the value (a string, or what the form decodes to).
---@param options GenOptions
---@return any value
---@return ToolCall[]? calls
function State:gen(options) end

---Appends the most likely choice.
---@param options SelectOptions
---@return string choice
---@return SelectInfo info
function State:select(options) end

---How likely a text is here; the state stays as it is.
---@param text string
---@return Score
function State:score(text) end

---Runs calls of gen{tools=..} in parallel and appends their outputs as tool turns.
---@param calls ToolCall[]
---@return any
function State:call_tools(calls) end

---@param name string
---@return any
function State:get(name) end

---@param name string
---@param value any
---@return State
function State:set(name, value) end

---@param name string a generated variable
---@return Meta
function State:meta(name) end

---Runs fn(s) and binds the text that it appended.
---@param name string
---@param fn fun(s: State)
---@return State
function State:scope(name, fn) end

---@return string
function State:text() end

---@return {role: string, content: string}[]
function State:messages() end

---@return integer tokens
function State:len() end

---n children with the same tokens, open turn and variables; fn(child, i) starts as a task.
---@param n integer
---@param fn? fun(child: State, i: integer): any
---@return Group
function State:fork(n, fn) end

---@return State
function State:copy() end

---A fork for each item; the results of fn in order.
---@param list any[]
---@param fn fun(child: State, item: any, i: integer): any
---@return any[]
function State:map(list, fn) end

---Runs a named program on this state, with variables of its own.
---@param name string
---@param args? table
---@return any
function State:call(name, args) end

---Stops its task and operation.
---@return State
function State:cancel() end

---Lets its pages go.
---@return State
function State:release() end

---@class JoinOptions
---@field mode? "wait"|"gather"|"concat"
---@field first? integer enough once so many have finished; the rest is cancelled
---@field on_error? "cancel"|"keep"
---@field vars? boolean with concat: gathers too
---@field sep? string with concat: between the branches

---@class Group
---@field [integer] State
local Group = {}

---@param fn fun(child: State, i: integer): any
---@return Group
function Group:run(fn) end

---@param options? "wait"|"gather"|"concat"|JoinOptions
---@return any[] results
function Group:join(options) end

---@param fields Program
---@return Program
function program(fields) end

---Tasks fn(item, i) at once, without a fork.
---@param list any[]
---@param fn fun(item: any, i: integer): any
---@return any[]
function parallel(list, fn) end

---Runs a named program on a state of its own.
---@param name string
---@param args? table
---@return any
function call(name, args) end

---@param name string
---@param args table
---@return any
function call_tool(name, args) end

---@param name string
---@return table schema
function tool_schema(name) end

---Sends an event `custom` to who streams the run.
---@param name string
---@param value any
function emit(name, value) end

---@return number seconds since the run began
function elapsed() end

---@return table
function budget_left() end

---@param text string
---@return integer
function count_tokens(text) end

json = {}

---@param value any
---@return string
function json.encode(value) end

---@param text string
---@return any
function json.decode(text) end

---A value that is null in JSON.
json.null = {}

---@param list table
---@return table list that encodes as an array even if it is empty
function json.array(list) end

---@param object table
---@return table object that encodes as an object even if it is empty
function json.object(object) end
