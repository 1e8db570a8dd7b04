"use strict";(self.rspackChunkesen_lab=self.rspackChunkesen_lab||[]).push([[351],{856(e,o,n){var r=n(601),t=n.n(r),a=n(314),i=(n.n(a))()(t());i.push([e.id,`.esen-panel {
  overflow-wrap: anywhere; /* names may be long */
  background: var(--jp-layout-color1);
  color: var(--jp-ui-font-color1);
  font-size: var(--jp-ui-font-size1);
  min-width: 240px;
  overflow: auto;
}

.esen-head {
  border-bottom: 1px solid var(--jp-border-color2);
  display: flex;
  flex-direction: column;
  gap: 2px;
  padding: 8px 12px;
}

.esen-notebook {
  font-weight: 600;
  overflow: hidden;
  text-overflow: ellipsis;
  white-space: nowrap;
}

.esen-head label {
  align-items: center;
  display: flex;
  gap: 4px;
}

.esen-faint {
  color: var(--jp-ui-font-color1);
}

.esen-section {
  border-bottom: 1px solid var(--jp-border-color3);
  padding: 8px 12px;
}

.esen-section h3 {
  font-size: var(--jp-ui-font-size1);
  font-weight: 600;
  letter-spacing: 0.02em;
  margin: 0 0 6px;
}

.esen-line {
  align-items: baseline;
  display: flex;
  flex-wrap: wrap;
  gap: 6px;
}

.esen-tag {
  border: 1px solid var(--jp-warn-color1);
  border-radius: 3px;
  padding: 0 4px;
}

.esen-note {
  color: var(--jp-ui-font-color1);
  margin-top: 4px;
}

.esen-list {
  color: var(--jp-ui-font-color1);
  margin: 4px 0 0;
  padding-left: 18px;
}

.esen-meter {
  background: var(--jp-layout-color2);
  border-radius: 3px;
  height: 18px;
  margin-top: 6px;
  overflow: hidden;
  position: relative;
}

.esen-meter-fill {
  background: #0072b2;
  height: 100%;
  opacity: 0.35;
  transition: width 0.3s;
}

.esen-meter-text {
  left: 6px;
  line-height: 18px;
  position: absolute;
  top: 0;
}

/* More exact than JupyterLab's own rule, which takes colour and line from links. */
.esen-panel a.esen-link {
  color: var(--jp-content-link-color, var(--jp-ui-font-color1));
  text-decoration: underline;
}

.esen-nodes {
  list-style: none;
  margin: 4px 0 0;
  padding: 0;
}

.esen-node {
  overflow-wrap: anywhere;
  padding: 4px 0;
}

.esen-node + .esen-node {
  border-top: 1px solid var(--jp-border-color3);
}

.esen-node-members {
  margin-top: 4px;
}

.esen-state-gone {
  color: var(--jp-error-color1);
  font-weight: 600;
}

.esen-table {
  border-collapse: collapse;
  margin-top: 4px;
  width: 100%;
}

.esen-table th,
.esen-table td {
  border-bottom: 1px solid var(--jp-border-color3);
  overflow-wrap: anywhere;
  padding: 2px 4px 2px 0;
  text-align: left;
}

.esen-table td:first-child {
  min-width: 6ch; /* a short name stays in one piece */
}

.esen-table th:not(:first-child),
.esen-table td:not(:first-child) {
  white-space: nowrap;
}

.esen-table th {
  font-size: var(--jp-ui-font-size0); /* four columns fit into the narrowest panel */
  white-space: nowrap;
  color: var(--jp-ui-font-color1);
  font-weight: 400;
}

.esen-table .esen-number {
  font-variant-numeric: tabular-nums;
  text-align: right;
}

.esen-best td {
  font-weight: 600;
}

.esen-profile-none {
  color: var(--jp-ui-font-color1);
}

.esen-job progress {
  accent-color: #0072b2;
  margin: 4px 0;
  width: 100%;
}

.esen-job-failed b {
  color: var(--jp-error-color1);
}

.esen-stop-job {
  margin-left: auto;
}

.esen-lanes {
  display: flex;
  gap: 3px;
  margin: 6px 0 4px;
}

.esen-lane {
  flex-basis: 0;
  min-width: 34px;
}

.esen-lane-members {
  background: var(--jp-layout-color2);
  border: 1px solid var(--jp-border-color2);
  border-radius: 3px;
  display: flex;
  flex-direction: column;
  height: 120px;
  overflow: hidden;
}

.esen-limiting .esen-lane-members {
  border-color: #d55e00;
  box-shadow: 0 0 0 1px #d55e00;
}

.esen-lane-member {
  background: color-mix(in srgb, var(--esen-colour, #0072b2) 35%, var(--jp-layout-color1));
  border-bottom: 1px solid var(--jp-layout-color1);
  flex-basis: 0;
  min-height: 14px;
  overflow: hidden;
  padding: 1px 4px;
  text-overflow: ellipsis;
  white-space: nowrap;
}

.esen-way {
  color: var(--jp-ui-font-color1);
  font-size: var(--jp-ui-font-size0);
  margin-left: 4px;
}

.esen-lane-idle {
  flex-basis: 0;
}

.esen-lane-share {
  color: var(--jp-ui-font-color1);
  font-variant-numeric: tabular-nums;
  text-align: center;
}

.esen-buttons {
  display: flex;
  flex-wrap: wrap;
  gap: 6px;
  margin-top: 6px;
}

.esen-action code {
  color: var(--jp-ui-font-color1);
  display: block;
  font-family: var(--jp-code-font-family);
  font-size: var(--jp-code-font-size);
  margin: 2px 0 4px;
  overflow-wrap: anywhere;
  white-space: pre-wrap;
}

.esen-buttons:has(code) {
  align-items: stretch;
  flex-direction: column;
}

.esen-button {
  background: var(--jp-layout-color2);
  border: 1px solid var(--jp-border-color1);
  border-radius: 3px;
  color: var(--jp-ui-font-color1);
  cursor: pointer;
  font: inherit;
  padding: 3px 10px;
}

.esen-button:hover:enabled {
  background: var(--jp-layout-color3);
}

.esen-button:focus-visible {
  outline: 2px solid var(--jp-brand-color1);
  outline-offset: 1px;
}

.esen-button:disabled {
  color: var(--jp-ui-font-color1);
  cursor: default;
}

.esen-suggested:enabled {
  background: #0072b2;
  border-color: #0072b2;
  color: #fff;
}

.esen-suggested:hover:enabled {
  background: #005a8e;
}

.esen-empty {
  color: var(--jp-ui-font-color1);
  padding: 12px;
}

.esen-said {
  padding: 8px 12px;
}

.esen-said-error {
  color: var(--jp-error-color1);
}

.esen-said-warning {
  color: var(--jp-warn-color0);
}

.esen-monitor {
  background: var(--jp-layout-color1);
  overflow: auto;
  padding: 8px;
}

.esen-status {
  background: none;
  border: 0;
  color: inherit;
  cursor: pointer;
  font: inherit;
  padding: 0 6px;
}

.esen-swatch {
  display: inline-block;
  width: 0.7em;
  height: 0.7em;
  margin-right: 0.4em;
}
`,""]),n.d(o,{},{A:i})},794(e,o,n){var r=n(601),t=n.n(r),a=n(314),i=(n.n(a))()(t());i.push([e.id,`.esen-live { width: 100%; }
.esen-live .esen-bar { display: flex; flex-wrap: wrap; gap: 1em; align-items: center; padding: 2px 0 4px; font-size: var(--jp-ui-font-size1, 13px);
  color: var(--jp-ui-font-color1, inherit); }
.esen-live .esen-bar button, .esen-live .esen-bar select { font: inherit; color: inherit; background: transparent;
  border: 1px solid var(--jp-border-color1, #999); border-radius: 3px; padding: 1px 8px; }
.esen-live .esen-bar select option { color: #222; }
.esen-live.esen-stale .esen-plots { opacity: 0.45; }
.esen-live.esen-stale .esen-said { color: var(--jp-warn-color0, #b45309); font-weight: 600; }
.esen-live .esen-names { font-size: 12px; color: var(--jp-ui-font-color1, inherit); padding-left: 8px; }
.esen-live .esen-names span { display: inline-block; max-width: 100%; overflow-wrap: anywhere; margin-right: 10px; }
.esen-live .esen-names span::before { content: ""; display: inline-block; width: 12px; height: 3px; margin-right: 4px; vertical-align: middle; background: var(--esen-colour); }
`,""]),n.d(o,{},{A:i})},314(e){e.exports=function(e){var o=[];return o.toString=function(){return this.map(function(o){var n="",r=void 0!==o[5];return o[4]&&(n+="@supports (".concat(o[4],") {")),o[2]&&(n+="@media ".concat(o[2]," {")),r&&(n+="@layer".concat(o[5].length>0?" ".concat(o[5]):""," {")),n+=e(o),r&&(n+="}"),o[2]&&(n+="}"),o[4]&&(n+="}"),n}).join("")},o.i=function(e,n,r,t,a){"string"==typeof e&&(e=[[null,e,void 0]]);var i={};if(r)for(var s=0;s<this.length;s++){var l=this[s][0];null!=l&&(i[l]=!0)}for(var p=0;p<e.length;p++){var c=[].concat(e[p]);r&&i[c[0]]||(void 0!==a&&(void 0===c[5]||(c[1]="@layer".concat(c[5].length>0?" ".concat(c[5]):""," {").concat(c[1],"}")),c[5]=a),n&&(c[2]&&(c[1]="@media ".concat(c[2]," {").concat(c[1],"}")),c[2]=n),t&&(c[4]?(c[1]="@supports (".concat(c[4],") {").concat(c[1],"}"),c[4]=t):c[4]="".concat(t)),o.push(c))}},o}},601(e){e.exports=function(e){return e[1]}},72(e){var o=[];function n(e){for(var n=-1,r=0;r<o.length;r++)if(o[r].identifier===e){n=r;break}return n}function r(e,r){for(var t={},a=[],i=0;i<e.length;i++){var s=e[i],l=r.base?s[0]+r.base:s[0],p=t[l]||0,c="".concat(l," ").concat(p);t[l]=p+1;var d=n(c),u={css:s[1],media:s[2],sourceMap:s[3],supports:s[4],layer:s[5]};if(-1!==d)o[d].references++,o[d].updater(u);else{var f=function(e,o){var n=o.domAPI(o);return n.update(e),function(o){o?(o.css!==e.css||o.media!==e.media||o.sourceMap!==e.sourceMap||o.supports!==e.supports||o.layer!==e.layer)&&n.update(e=o):n.remove()}}(u,r);r.byIndex=i,o.splice(i,0,{identifier:c,updater:f,references:1})}a.push(c)}return a}e.exports=function(e,t){var a=r(e=e||[],t=t||{});return function(e){e=e||[];for(var i=0;i<a.length;i++){var s=n(a[i]);o[s].references--}for(var l=r(e,t),p=0;p<a.length;p++){var c=n(a[p]);0===o[c].references&&(o[c].updater(),o.splice(c,1))}a=l}}},659(e){var o={};e.exports=function(e,n){var r=function(e){if(void 0===o[e]){var n=document.querySelector(e);if(window.HTMLIFrameElement&&n instanceof window.HTMLIFrameElement)try{n=n.contentDocument.head}catch(e){n=null}o[e]=n}return o[e]}(e);if(!r)throw Error("Couldn't find a style target. This probably means that the value for the 'insert' parameter is invalid.");r.appendChild(n)}},540(e){e.exports=function(e){var o=document.createElement("style");return e.setAttributes(o,e.attributes),e.insert(o,e.options),o}},56(e,o,n){e.exports=function(e){var o=n.nc;o&&e.setAttribute("nonce",o)}},825(e){e.exports=function(e){if("u"<typeof document)return{update:function(){},remove:function(){}};var o=e.insertStyleElement(e);return{update:function(n){var r,t,a;r="",n.supports&&(r+="@supports (".concat(n.supports,") {")),n.media&&(r+="@media ".concat(n.media," {")),(t=void 0!==n.layer)&&(r+="@layer".concat(n.layer.length>0?" ".concat(n.layer):""," {")),r+=n.css,t&&(r+="}"),n.media&&(r+="}"),n.supports&&(r+="}"),(a=n.sourceMap)&&"u">typeof btoa&&(r+="\n/*# sourceMappingURL=data:application/json;base64,".concat(btoa(unescape(encodeURIComponent(JSON.stringify(a))))," */")),e.styleTagTransform(r,o,e.options)},remove:function(){var e;null===(e=o).parentNode||e.parentNode.removeChild(e)}}}},113(e){e.exports=function(e,o){if(o.styleSheet)o.styleSheet.cssText=e;else{for(;o.firstChild;)o.removeChild(o.firstChild);o.appendChild(document.createTextNode(e))}}},330(e,o,n){var r=n(72),t=n.n(r),a=n(825),i=n.n(a),s=n(659),l=n.n(s),p=n(56),c=n.n(p),d=n(540),u=n.n(d),f=n(113),v=n.n(f),b=n(856),h={};h.styleTagTransform=v(),h.setAttributes=c(),h.insert=l().bind(null,"head"),h.domAPI=i(),h.insertStyleElement=u(),t()(b.A,h),b.A&&b.A.locals&&b.A.locals;var x=n(794),g={};g.styleTagTransform=v(),g.setAttributes=c(),g.insert=l().bind(null,"head"),g.domAPI=i(),g.insertStyleElement=u(),t()(x.A,g),x.A&&x.A.locals&&x.A.locals}}]);